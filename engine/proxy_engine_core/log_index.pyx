"""Searching batches of finished requests without making Python objects of them.

A LogFilter looks first at the keys of a batch (index()), which tell what can not match, and
then at the records that are left. A LogSummary counts what a filter finds.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from proxy_engine_core.forward.log cimport LogHeader
from proxy_engine_core.forward.transaction cimport LOG_ABORTED, LOG_LOCAL, LOG_OPEN
from proxy_engine_core.http1.traceparent cimport TRACE_ID_SIZE
from proxy_engine_core.log_batch cimport record_size
from proxy_engine_core.records cimport log_record

from proxy_engine_core.log_batch import count as record_count

STATES = ("open", "closed", "unavailable", "timeout", "aborted")

cdef enum:
    STATUS_BITS = 12
    STATUS_MASK = (1 << STATUS_BITS) - 1
    SUMMARY_PATHS_MAX = 100_000           # different ones that a summary remembers


cdef LogState log_state(
    uint32_t status, uint32_t flags, const uint8_t *reason, uint32_t reason_size
) noexcept nogil:
    if flags & LOG_OPEN:
        return STATE_OPEN
    if reason_size >= 7 and memcmp(reason + reason_size - 7, b"timeout", 7) == 0:
        return STATE_TIMEOUT
    if reason_size >= 5 and memcmp(reason, b"slow_", 5) == 0:
        return STATE_TIMEOUT
    if flags & LOG_ABORTED:
        return STATE_ABORTED
    if flags & LOG_LOCAL and status in (502, 503):
        return STATE_UNAVAILABLE
    return STATE_CLOSED


def state(uint32_t status, uint32_t flags, str reason):
    cdef bytes text = reason.encode("latin-1", "replace")
    return STATES[<int>log_state(
        status, flags, <const uint8_t *><const char *>text, <uint32_t>len(text)
    )]


cdef struct Texts:                        # where the strings of a record are
    const uint8_t *request_id
    const uint8_t *visitor
    const uint8_t *method
    const uint8_t *host
    const uint8_t *path
    const uint8_t *reason
    const uint8_t *trace


cdef void texts_find(Texts *texts, const uint8_t *record, const LogHeader *header) noexcept nogil:
    texts.request_id = record + sizeof(LogHeader)
    texts.visitor = texts.request_id + header.request_id_size
    texts.method = texts.visitor + header.address_size
    texts.host = texts.method + header.method_size
    texts.path = texts.host + header.host_size
    texts.reason = texts.path + header.path_size
    texts.trace = texts.reason + header.reason_size


cdef LogState state_at(const uint8_t *record, const LogHeader *header) noexcept nogil:
    cdef Texts texts
    texts_find(&texts, record, header)
    return log_state(header.status, header.flags, texts.reason, header.reason_size)


def index(bytes batch):
    cdef const uint8_t *first = batch
    cdef Py_ssize_t total = len(batch)
    cdef Py_ssize_t offset = 0
    cdef Py_ssize_t size
    cdef Py_ssize_t room = record_count(batch) * <Py_ssize_t>sizeof(LogKey)
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, room)
    cdef char *target = PyBytes_AS_STRING(keys)
    cdef LogKey key
    cdef LogHeader header
    while offset < total:
        size = record_size(first + offset, total - offset, &header)
        key.offset = <uint32_t>offset
        key.device = <uint32_t>header.device
        key.route = header.route
        key.request_id = text_hash(first + offset + sizeof(LogHeader), header.request_id_size)
        key.status = <uint16_t>(
            min(header.status, STATUS_MASK)
            | <uint32_t>state_at(first + offset, &header) << STATUS_BITS
        )
        key.duration = duration_bucket(header.total_us)
        memcpy(target, &key, sizeof(LogKey))
        target += sizeof(LogKey)
        offset += size
    return keys


def span(bytes batch):
    cdef const uint8_t *place = batch
    cdef Py_ssize_t left = len(batch)
    cdef Py_ssize_t size
    cdef uint64_t earliest = <uint64_t>-1
    cdef uint64_t latest = 0
    cdef LogHeader header
    while left:
        size = record_size(place, left, &header)
        earliest = min(earliest, header.time_us)
        latest = max(latest, header.time_us)
        place += size
        left -= size
    return min(earliest, latest), latest


def thin(bytes batch, double share):
    cdef const uint8_t *first = batch
    cdef Py_ssize_t total = len(batch)
    cdef Py_ssize_t offset = 0
    cdef Py_ssize_t kept = 0              # up to here what stays is in `pieces`
    cdef Py_ssize_t size
    cdef double limit = share * 4294967296.0
    cdef list pieces = []
    cdef LogHeader header
    while offset < total:
        size = record_size(first + offset, total - offset, &header)
        if (
            header.status < 400 and header.reason_size == 0 and not header.flags & LOG_ABORTED
            and text_hash(first + offset + sizeof(LogHeader), header.request_id_size) >= limit
        ):
            if offset > kept:
                pieces.append(batch[kept:offset])
            kept = offset + size
        offset += size
    if kept == 0:
        return batch
    pieces.append(batch[kept:])
    return b"".join(pieces)


cdef inline bint is_text(bytes wanted, const uint8_t *text, uint32_t size) noexcept:
    return len(wanted) == size and memcmp(<const char *>wanted, text, size) == 0


cdef inline uint8_t lowered(uint8_t letter) noexcept nogil:
    return letter | 0x20 if c"A" <= letter <= c"Z" else letter


cdef bint holds(
    const uint8_t *text, uint32_t size, const uint8_t *part, uint32_t part_size
) noexcept nogil:
    # Whether `part`, which is in lower case, is somewhere in the text, in any case.
    cdef uint32_t start, index
    if part_size > size:
        return False
    for start in range(size - part_size + 1):
        index = 0
        while index < part_size and lowered(text[start + index]) == part[index]:
            index += 1
        if index == part_size:
            return True
    return False


cdef class LogFilter:
    cdef readonly tuple devices           # None: any
    cdef readonly tuple tunnels
    cdef uint32_t status_min, status_max
    cdef uint32_t states                  # a bit each
    cdef uint64_t since_us, until_us
    cdef uint64_t total_us_min, total_us_max
    cdef bytes request_id, visitor, method, host, path, reason       # None: any
    cdef bytes trace_id
    cdef uint32_t request_id_hash
    cdef uint16_t duration_min, duration_max
    cdef uint32_t one_device              # the only one wanted, as most searches have it
    cdef bint has_one_device
    cdef readonly bint is_keyed           # the keys tell something

    def __init__(
        self, *, devices=None, tunnels=None, status=(0, 65535), state=None, since_us=0,
        until_us=2**64 - 1, total_us=(0, 2**64 - 1), request_id=None, visitor=None,
        method=None, host=None, path=None, reason=None, trace_id=None,
    ):
        self.devices = as_ids(devices)
        self.tunnels = as_ids(tunnels)
        self.status_min, self.status_max = status
        self.states = (1 << STATE_COUNT) - 1 if state is None else 1 << STATES.index(state)
        self.since_us, self.until_us = since_us, until_us
        self.total_us_min, self.total_us_max = total_us
        self.duration_min = duration_bucket(self.total_us_min)
        self.duration_max = duration_bucket(self.total_us_max)
        self.has_one_device = self.devices is not None and len(self.devices) == 1
        if self.has_one_device:
            self.one_device = <uint32_t><uint64_t>self.devices[0]
        self.request_id = as_bytes(request_id)
        self.visitor = as_bytes(visitor)
        self.method = as_bytes(method)
        self.host = as_bytes(host)
        self.path = None if path is None else as_bytes(path).lower()
        self.reason = as_bytes(reason)
        self.trace_id = None if trace_id is None else bytes.fromhex(trace_id)
        if trace_id is not None and len(self.trace_id) != TRACE_ID_SIZE:
            raise ValueError(f"a trace id has {2 * TRACE_ID_SIZE} hexadecimal digits")
        if request_id is not None:
            self.request_id_hash = text_hash(
                <const uint8_t *><const char *>self.request_id, <uint32_t>len(self.request_id)
            )
        self.is_keyed = (
            devices is not None or tunnels is not None or request_id is not None
            or state is not None or status != (0, 65535) or total_us != (0, 2**64 - 1)
        )

    cdef bint is_candidate(self, const LogKey *key) noexcept:
        cdef uint32_t status = key.status & STATUS_MASK
        if not self.states >> (key.status >> STATUS_BITS) & 1:
            return False
        if status != STATUS_MASK and not self.status_min <= status <= self.status_max:
            return False
        if not self.duration_min <= key.duration <= self.duration_max:
            return False
        if self.request_id is not None and key.request_id != self.request_id_hash:
            return False
        if self.has_one_device:
            if key.device != self.one_device:
                return False
        elif self.devices is not None and not is_one_of(key.device, self.devices, 0xFFFFFFFF):
            return False
        return self.tunnels is None or is_one_of(key.route, self.tunnels, 0xFFFFFFFF)

    cdef bint matches(self, const uint8_t *record, const LogHeader *header) noexcept:
        cdef Texts texts
        if not self.since_us <= header.time_us <= self.until_us:
            return False
        if not self.status_min <= header.status <= self.status_max:
            return False
        if not self.total_us_min <= header.total_us <= self.total_us_max:
            return False
        if self.devices is not None and not is_one_of(header.device, self.devices, <uint64_t>-1):
            return False
        if self.tunnels is not None and not is_one_of(header.route, self.tunnels, <uint64_t>-1):
            return False
        texts_find(&texts, record, header)
        if self.states != (1 << STATE_COUNT) - 1 and not self.states >> <uint32_t>log_state(
            header.status, header.flags, texts.reason, header.reason_size
        ) & 1:
            return False
        if self.request_id is not None and not is_text(
            self.request_id, texts.request_id, header.request_id_size
        ):
            return False
        if self.visitor is not None and not is_text(
            self.visitor, texts.visitor, header.address_size
        ):
            return False
        if self.method is not None and not is_text(self.method, texts.method, header.method_size):
            return False
        if self.host is not None and not is_text(self.host, texts.host, header.host_size):
            return False
        if self.reason is not None and not is_text(self.reason, texts.reason, header.reason_size):
            return False
        if self.trace_id is not None and not (
            header.trace_size >= TRACE_ID_SIZE
            and is_text(self.trace_id, texts.trace, TRACE_ID_SIZE)
        ):
            return False
        return self.path is None or holds(
            texts.path, header.path_size, <const uint8_t *><const char *>self.path,
            <uint32_t>len(self.path),
        )

    def candidates(self, bytes keys):
        cdef Py_ssize_t count = len(keys) // <Py_ssize_t>sizeof(LogKey)
        cdef const LogKey *place = <const LogKey *><const char *>keys
        cdef Py_ssize_t number, size
        cdef list found = []
        for number in range(count):
            if self.is_candidate(&place[number]):
                size = -1
                if number + 1 < count:
                    size = <Py_ssize_t>place[number + 1].offset - place[number].offset
                found.append((number, place[number].offset, size))
        return found

    def find(self, bytes batch):
        cdef const uint8_t *place = batch
        cdef Py_ssize_t left = len(batch)
        cdef Py_ssize_t size
        cdef Py_ssize_t number = 0
        cdef list found = []
        cdef LogHeader header
        while left:
            size = record_size(place, left, &header)
            if self.matches(place, &header):
                found.append((number, log_record(place)))
            number += 1
            place += size
            left -= size
        return found


cdef tuple as_ids(numbers):
    cdef uint64_t number
    cdef list ids = []
    if numbers is None:
        return None
    for number in numbers:
        ids.append(number)
    return tuple(ids)


cdef bytes as_bytes(text):
    return None if text is None else text.encode("latin-1", "replace")


cdef bint is_one_of(uint64_t number, tuple wanted, uint64_t mask) noexcept:
    cdef uint64_t one
    for one in wanted:
        if one & mask == number:
            return True
    return False


cdef class LogSummary:
    cdef readonly uint64_t count
    cdef readonly uint64_t bytes_in
    cdef readonly uint64_t bytes_out
    cdef uint64_t histogram[DURATION_BUCKETS]
    cdef uint64_t statuses[1000]
    cdef uint64_t state_counts[STATE_COUNT]
    cdef uint64_t slowest_us
    cdef readonly dict paths              # path without query: how often
    cdef readonly uint64_t other_paths    # of paths beyond SUMMARY_PATHS_MAX

    def __cinit__(self):
        self.paths = {}

    def add(self, bytes batch, LogFilter wanted=None):
        cdef const uint8_t *place = batch
        cdef Py_ssize_t left = len(batch)
        cdef Py_ssize_t size
        cdef LogHeader header
        while left:
            size = record_size(place, left, &header)
            if wanted is None or wanted.matches(place, &header):
                self.add_record(place, &header)
            place += size
            left -= size

    cdef int add_record(self, const uint8_t *record, const LogHeader *header) except -1:
        cdef Texts texts
        cdef uint32_t size = 0
        texts_find(&texts, record, header)
        self.count += 1
        self.bytes_in += header.bytes_in
        self.bytes_out += header.bytes_out
        self.histogram[duration_bucket(header.total_us)] += 1
        self.statuses[min(header.status, 999)] += 1
        self.state_counts[<int>log_state(
            header.status, header.flags, texts.reason, header.reason_size
        )] += 1
        self.slowest_us = max(self.slowest_us, header.total_us)
        while size < header.path_size and texts.path[size] not in (c"?", c"#"):
            size += 1
        path = PyBytes_FromStringAndSize(<const char *>texts.path, size)
        seen = self.paths.get(path)
        if seen is not None:
            self.paths[path] = seen + 1
        elif len(self.paths) < SUMMARY_PATHS_MAX:
            self.paths[path] = 1
        else:
            self.other_paths += 1
        return 0

    def status_counts(self):
        cdef int status
        return {status: self.statuses[status] for status in range(1000) if self.statuses[status]}

    def states(self):
        cdef int number
        return {STATES[number]: self.state_counts[number] for number in range(STATE_COUNT)}

    def top_paths(self, Py_ssize_t limit):
        counted = sorted(self.paths.items(), key=lambda item: (-item[1], item[0]))[:limit]
        return [(path.decode("latin-1"), times) for path, times in counted]

    def percentile(self, double percent):
        cdef uint64_t rank = <uint64_t>(percent / 100.0 * <double>self.count + 0.5)
        cdef uint64_t below = 0
        cdef uint64_t middle
        cdef uint32_t bucket
        if self.count == 0:
            return 0
        rank = min(max(rank, 1), self.count)
        for bucket in range(DURATION_BUCKETS):
            below += self.histogram[bucket]
            if below >= rank:
                # Its middle, and no more than was ever seen. The end of the last one is 2^64.
                middle = bucket_start(bucket)
                middle += (bucket_start(bucket + 1) - middle) // 2
                return min(middle, self.slowest_us)
        return self.slowest_us

    @property
    def max_us(self):
        return self.slowest_us
