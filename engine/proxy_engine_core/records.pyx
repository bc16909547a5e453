# Ring records as Python objects. See records.pxd; core.pyi tells what the fields mean.

from collections import namedtuple

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from proxy_engine_core.events cimport (
    EVENT_AUTH as KIND_AUTH, EVENT_CONTROL as KIND_CONTROL, EVENT_DIAL_FAILED as
    KIND_DIAL_FAILED, EVENT_DRAINED as KIND_DRAINED, EVENT_LINK_DOWN as KIND_LINK_DOWN,
    EVENT_LINK_UP as KIND_LINK_UP, EVENT_LINK_LOAD as KIND_LINK_LOAD, EVENT_LINK_SPENT as
    KIND_LINK_SPENT, EVENT_DUMP as KIND_DUMP, EVENT_SLOW_TURN as KIND_SLOW_TURN,
    EVENT_REQUESTS_OPEN as KIND_REQUESTS_OPEN, EVENT_PRESSURE as KIND_PRESSURE,
    EVENT_TARGET_FAILED as KIND_TARGET_FAILED,
)
from proxy_engine_core.forward.log cimport LogHeader
from proxy_engine_core.http1.traceparent cimport SPAN_ID_SIZE, TRACE_ID_SIZE, Trace
from proxy_engine_core.io.pressure cimport PRESSURE_OF_MEMORY
from proxy_engine_core.io.worker cimport EventRecord

EVENT_AUTH = KIND_AUTH
EVENT_LINK_UP = KIND_LINK_UP
EVENT_LINK_DOWN = KIND_LINK_DOWN
EVENT_CONTROL = KIND_CONTROL
EVENT_DIAL_FAILED = KIND_DIAL_FAILED
EVENT_TARGET_FAILED = KIND_TARGET_FAILED
EVENT_DRAINED = KIND_DRAINED
EVENT_PRESSURE = KIND_PRESSURE
EVENT_LINK_SPENT = KIND_LINK_SPENT
EVENT_LINK_LOAD = KIND_LINK_LOAD
EVENT_REQUESTS_OPEN = KIND_REQUESTS_OPEN
EVENT_SLOW_TURN = KIND_SLOW_TURN
EVENT_DUMP = KIND_DUMP
LOG_REUSED = 1
LOG_RETRIED = 2
LOG_ABORTED = 4
LOG_TUNNEL = 8
LOG_LOCAL = 16
LOG_TCP = 32
LOG_OPEN = 64
LOG_UDP = 128
LOG_HTTP10 = 256

LogFields = namedtuple("LogFields", (
    "time_us", "route", "device", "request_id", "visitor", "method", "host", "path", "status",
    "reason", "flags", "bytes_in", "bytes_out", "total_us", "first_byte_us", "target_us",
    "link_us", "trace_id", "parent_id", "span_id", "trace_flags",
), defaults=(0, "", "", "", 0))


class LogRecord(LogFields):
    """One finished visitor request, as core.pyi tells."""

    __slots__ = ()

    @property
    def proxy_us(self):
        return max(0, self.first_byte_us - self.link_us - self.target_us)


cdef str text(const uint8_t *source, uint32_t size):
    return (<const char *>source)[:size].decode("latin-1")


cdef str hexadecimal(const uint8_t *source, uint32_t size):
    """"" of zeros."""
    cdef bytes number = raw(source, size)
    return number.hex() if number.strip(b"\0") else ""


cdef bytes raw(const uint8_t *source, uint32_t size):
    return <bytes>(<const char *>source)[:size]


cdef tuple certificate_names(const uint8_t *source, uint32_t size):
    return tuple(raw(source, size).decode("utf-8", "replace").splitlines())


cdef tuple event_tuple(const uint8_t *place):
    cdef EventRecord record
    cdef const uint8_t *first = place + sizeof(EventRecord)
    cdef const uint8_t *second
    memcpy(&record, place, sizeof(EventRecord))
    second = first + record.first_size
    if record.kind == KIND_AUTH:
        return (
            EVENT_AUTH, record.a, text(first, <uint32_t>record.b),
            raw(second, record.second_size),
            certificate_names(first + record.b, record.first_size - <uint32_t>record.b),
        )
    if record.kind == KIND_LINK_UP:
        return (
            EVENT_LINK_UP, record.a, record.b, text(first, record.first_size),
            raw(second, record.second_size),
        )
    if record.kind == KIND_LINK_DOWN:
        return (
            EVENT_LINK_DOWN, record.a, record.b, text(first, record.first_size), record.c,
            record.d, record.e / 1000.0,
        )
    if record.kind == KIND_CONTROL:
        return (EVENT_CONTROL, record.a, raw(first, record.first_size))
    if record.kind == KIND_DIAL_FAILED:
        return (
            EVENT_DIAL_FAILED, record.a, text(first, record.first_size), record.b, record.c,
            raw(second, <uint32_t>record.d),
            raw(second + record.d, record.second_size - <uint32_t>record.d),
        )
    if record.kind == KIND_TARGET_FAILED:
        return (
            EVENT_TARGET_FAILED, text(first, record.first_size), record.b,
            text(second, record.second_size),
        )
    if record.kind == KIND_PRESSURE:
        return (
            EVENT_PRESSURE, record.b, record.c, record.d,
            "memory" if record.a == PRESSURE_OF_MEMORY else "files",
        )
    if record.kind == KIND_LINK_SPENT:
        return (EVENT_LINK_SPENT, record.a)
    if record.kind == KIND_LINK_LOAD:
        return (EVENT_LINK_LOAD, record.a, record.b)
    if record.kind == KIND_REQUESTS_OPEN:
        return (EVENT_REQUESTS_OPEN, record.a, raw(first, record.first_size), record.b != 0)
    if record.kind == KIND_SLOW_TURN:
        return (EVENT_SLOW_TURN, record.a, record.b, record.c)
    if record.kind == KIND_DUMP:
        return (EVENT_DUMP, record.a, record.b, raw(first, record.first_size), record.c != 0)
    return (EVENT_DRAINED,)


cdef object log_record(const uint8_t *place):
    cdef LogHeader header
    memcpy(&header, place, sizeof(LogHeader))
    cdef const uint8_t *request_id = place + sizeof(LogHeader)
    cdef const uint8_t *visitor = request_id + header.request_id_size
    cdef const uint8_t *method = visitor + header.address_size
    cdef const uint8_t *host = method + header.method_size
    cdef const uint8_t *path = host + header.host_size
    cdef const uint8_t *reason = path + header.path_size
    cdef const Trace *trace = <const Trace *>(reason + header.reason_size)
    cdef str trace_id = ""
    cdef str parent_id = ""
    cdef str span_id = ""
    if header.trace_size >= sizeof(Trace):
        trace_id = hexadecimal(trace.id, TRACE_ID_SIZE)
        parent_id = hexadecimal(trace.parent, SPAN_ID_SIZE)
        span_id = hexadecimal(trace.span, SPAN_ID_SIZE)
    return LogRecord(
        header.time_us, header.route, header.device, text(request_id, header.request_id_size),
        text(visitor, header.address_size), text(method, header.method_size),
        text(host, header.host_size), text(path, header.path_size), header.status,
        text(reason, header.reason_size), header.flags, header.bytes_in, header.bytes_out,
        header.total_us, header.first_byte_us, header.target_us, header.link_us, trace_id,
        parent_id, span_id, header.trace_flags,
    )
