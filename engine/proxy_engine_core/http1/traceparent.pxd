# The traceparent field of W3C Trace Context (level 1, https://www.w3.org/TR/trace-context-1/):
#
#     00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
#     version, trace id, id of the sender's span ("parent id"), flags; lower case hex
#
# Pure.

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    TRACEPARENT_SIZE = 55                 # as version 00 writes it
    TRACE_ID_SIZE = 16
    SPAN_ID_SIZE = 8

cdef enum TraceFlag:
    TRACE_SAMPLED = 1                     # the sender records this trace

cdef struct Trace:                        # ids of zeros are none
    uint8_t id[TRACE_ID_SIZE]
    uint8_t parent[SPAN_ID_SIZE]          # the span that the request came from
    uint8_t span[SPAN_ID_SIZE]            # ours, which the target's spans have as their parent

# The id and the parent of what `value` says, and its flags: of those the version knows, which is
# TRACE_SAMPLED. False: it is not valid, nothing is written. A version beyond 00 may have more
# behind the flags, and 00 is what is read of it (section 4.3).
cdef bint traceparent_read(
    const uint8_t *value, uint32_t size, Trace *trace, uint8_t *flags
) noexcept nogil
cdef bint id_is_none(const uint8_t *source, uint32_t size) noexcept nogil
# TRACEPARENT_SIZE bytes: the id, and the span as the parent of who reads it.
cdef void traceparent_write(uint8_t *target, const Trace *trace, uint8_t flags) noexcept nogil
