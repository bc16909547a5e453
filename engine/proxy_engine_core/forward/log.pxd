# The record of a finished request in the worker's log ring, and its layout for the
# readers (records.pyx, log_batch.pyx): a packed header, then the strings: request id,
# address, method, host, path, reason, and a Trace or nothing. Stores keep records in this form:
# who changes it gives it the next LOG_FORMAT.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.traceparent cimport Trace
from proxy_engine_core.io.worker cimport Worker


cdef enum:
    # 2: `trace_size`, `trace_flags` and `link_us`, where 1 had zeros. So 1 is read as 2.
    LOG_FORMAT = 2
    LOG_RECORD_SIZE_MAX = 4096            # of one record; more than there can be

cdef struct LogHeader:
    uint64_t time_us                      # wall clock
    uint64_t device
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t total_us
    uint64_t first_byte_us                # from the start, too
    uint64_t target_us                    # ... of which it was the target's
    uint32_t route
    uint32_t flags
    uint16_t status
    uint16_t path_size
    uint16_t request_id_size
    uint8_t address_size
    uint8_t method_size
    uint8_t host_size
    uint8_t reason_size
    uint8_t trace_size
    uint8_t trace_flags                   # http1/traceparent.pxd
    uint32_t link_us                      # ... and the link's

cdef inline uint32_t log_size(const LogHeader *header) noexcept nogil:
    return (
        <uint32_t>sizeof(LogHeader) + header.request_id_size + header.address_size
        + header.method_size + header.host_size + header.path_size + header.reason_size
        + header.trace_size
    )

cdef struct LogTexts:                     # `reason` ends with a NUL, the others have their size
    const uint8_t *request_id             # in the header
    const char *address
    const uint8_t *method
    const uint8_t *host
    const uint8_t *path
    const char *reason
    const Trace *trace

cdef void log_write(Visitor *visitor, const char *reason) noexcept nogil
# The record of a request that has not finished, as it is by now, with LOG_OPEN; its size, at most
# LOG_RECORD_SIZE_MAX.
cdef uint32_t log_open(const Visitor *visitor, uint8_t *place) noexcept nogil
# A record of what was no transaction. The time and reason_size are filled in.
cdef void log_put(Worker *worker, LogHeader *header, const LogTexts *texts) noexcept nogil
