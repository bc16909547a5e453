"""Finished requests by the thousand, as the engine hands them over and a store keeps them.

A batch is bytes: records one after the other as workers wrote them, each a LogHeader and its
strings (forward/log.pxd), in the machine's byte order, which is little-endian wherever we
run. Nobody builds a Python object for a record that nobody looks at.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from proxy_engine_core.forward.log cimport LOG_FORMAT, LogHeader, log_size
from proxy_engine_core.http1.traceparent cimport SPAN_ID_SIZE, TRACE_ID_SIZE
from proxy_engine_core.records cimport log_record

FORMAT = LOG_FORMAT
READABLE = (1, LOG_FORMAT)

cdef extern from "string.h" nogil:
    # A GNU extension, so not in Cython's own libc.string.
    void *memmem(const void *place, size_t size, const void *needle, size_t needle_size)


cdef Py_ssize_t record_size(
    const uint8_t *place, Py_ssize_t left, LogHeader *header
) except -1:
    # Batches come back from disks, so this checks what it is given.
    cdef Py_ssize_t size
    if left >= <Py_ssize_t>sizeof(LogHeader):
        memcpy(header, place, sizeof(LogHeader))
        size = log_size(header)
        if size <= left:
            return size
    raise ValueError("the batch ends inside a record")


def count(bytes batch):
    cdef const uint8_t *place = batch
    cdef Py_ssize_t left = len(batch)
    cdef Py_ssize_t size
    cdef Py_ssize_t records = 0
    cdef LogHeader header
    while left:
        size = record_size(place, left, &header)
        place += size
        left -= size
        records += 1
    return records


def newest(bytes batch):
    cdef const uint8_t *place = batch
    cdef Py_ssize_t left = len(batch)
    cdef Py_ssize_t size
    cdef uint64_t time_us = 0
    cdef LogHeader header
    while left:
        size = record_size(place, left, &header)
        time_us = max(time_us, header.time_us)
        place += size
        left -= size
    return time_us


def totals(bytes batch):
    # Neighbours are often of one device: they are added up before Python sees them.
    cdef const uint8_t *place = batch
    cdef Py_ssize_t left = len(batch)
    cdef Py_ssize_t size
    cdef uint64_t device = 0
    cdef uint64_t requests = 0
    cdef uint64_t bytes_in = 0
    cdef uint64_t bytes_out = 0
    cdef dict found = {}
    cdef LogHeader header
    while left:
        size = record_size(place, left, &header)
        if header.device != device:
            add_totals(found, device, requests, bytes_in, bytes_out)
            device = header.device
            requests = bytes_in = bytes_out = 0
        requests += 1
        bytes_in += header.bytes_in
        bytes_out += header.bytes_out
        place += size
        left -= size
    add_totals(found, device, requests, bytes_in, bytes_out)
    return found


cdef int add_totals(
    dict found, uint64_t device, uint64_t requests, uint64_t bytes_in, uint64_t bytes_out
) except -1:
    if requests:
        before = found.get(device, (0, 0, 0))
        found[device] = (before[0] + requests, before[1] + bytes_in, before[2] + bytes_out)
    return 0


def unpack(bytes batch, Py_ssize_t first=0, Py_ssize_t every=1):
    cdef const uint8_t *place = batch
    cdef Py_ssize_t left = len(batch)
    cdef Py_ssize_t size
    cdef list records = []
    cdef LogHeader header
    if first < 0 or every < 1:
        raise ValueError("first is 0 or more, every 1 or more")
    while left:
        size = record_size(place, left, &header)
        if first == 0:
            records.append(log_record(place))
            first = every
        first -= 1
        place += size
        left -= size
    return records


def pack(records):
    return b"".join([packed(record) for record in records])


cdef bytes packed(record):
    cdef LogHeader header
    memset(&header, 0, sizeof(LogHeader))
    (
        header.time_us, header.route, header.device, request_id, visitor, method, host, path,
        header.status, reason, header.flags, header.bytes_in, header.bytes_out, header.total_us,
        header.first_byte_us, header.target_us, header.link_us, trace_id, parent_id, span_id,
        header.trace_flags,
    ) = record
    header.request_id_size = <uint16_t>text_size(request_id, 0xFFFF)
    header.address_size = <uint8_t>text_size(visitor, 0xFF)
    header.method_size = <uint8_t>text_size(method, 0xFF)
    header.host_size = <uint8_t>text_size(host, 0xFF)
    header.path_size = <uint16_t>text_size(path, 0xFFFF)
    header.reason_size = <uint8_t>text_size(reason, 0xFF)
    trace = b""
    if trace_id or parent_id or span_id:
        trace = id_bytes(trace_id, TRACE_ID_SIZE)
        trace += id_bytes(parent_id, SPAN_ID_SIZE) + id_bytes(span_id, SPAN_ID_SIZE)
    header.trace_size = <uint8_t>len(trace)
    text = "".join((request_id, visitor, method, host, path, reason))
    return (<const char *>&header)[:sizeof(LogHeader)] + text.encode("latin-1") + trace


cdef Py_ssize_t text_size(str text, Py_ssize_t size_max) except -1:
    if len(text) > size_max:
        raise OverflowError(f"a text of {len(text)} bytes; there is room for {size_max}")
    return len(text)


cdef bytes id_bytes(str text, Py_ssize_t size):
    """Of hexadecimal digits; zeros of none."""
    cdef bytes number = bytes.fromhex(text) if text else bytes(size)
    if len(number) != size:
        raise ValueError(f"an id of {size} bytes is not {text!r}")
    return number


def rewrite_paths(bytes batch, marks, rewrite):
    cdef const uint8_t *first = batch
    cdef Py_ssize_t total = len(batch)
    cdef Py_ssize_t offset = 0
    cdef Py_ssize_t kept = 0              # up to here the batch is in `pieces`
    cdef Py_ssize_t size
    cdef const char *found
    cdef list pieces = []
    cdef tuple needles = tuple(marks)
    cdef LogHeader header
    while offset < total:
        size = record_size(first + offset, total - offset, &header)
        found = <const char *>first + offset + path_offset(&header)
        if has_mark(found, header.path_size, needles):
            path = found[:header.path_size].decode("latin-1")
            rewritten = rewrite(path)
            if rewritten != path:
                pieces.append(batch[kept:offset])
                pieces.append(packed(log_record(first + offset)._replace(path=rewritten)))
                kept = offset + size
        offset += size
    if not pieces:
        return batch
    pieces.append(batch[kept:])
    return b"".join(pieces)


cdef inline uint32_t path_offset(const LogHeader *header) noexcept nogil:
    return (
        <uint32_t>sizeof(LogHeader) + header.request_id_size + header.address_size
        + header.method_size + header.host_size
    )


cdef bint has_mark(const char *path, uint32_t size, tuple needles):
    cdef bytes needle
    for needle in needles:
        if memmem(path, size, <const char *>needle, len(needle)) != NULL:
            return True
    return False
