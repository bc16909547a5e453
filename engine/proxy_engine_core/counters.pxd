# What a worker counts. One writer (the worker), read by anybody at any time.
# Names for Python are in counters.pyx, in this order.

from libc.stdint cimport uint64_t

from proxy_engine_core.atomic cimport counter_add


cdef enum Counter:
    COUNT_TURNS
    COUNT_ACCEPTED
    COUNT_ACCEPT_ERRORS
    COUNT_CONNECTIONS_CLOSED
    COUNT_REQUESTS
    COUNT_RESPONSES
    COUNT_RESPONSES_LOCAL
    COUNT_REQUESTS_ABORTED
    COUNT_REQUESTS_RETRIED
    COUNT_REQUESTS_QUEUED
    COUNT_BAD_REQUESTS
    COUNT_BAD_RESPONSES
    COUNT_TIMEOUTS
    COUNT_TUNNELS
    COUNT_STREAMS_OPENED
    COUNT_STREAMS_REUSED
    COUNT_STREAMS_REFUSED
    COUNT_STREAM_SURPLUS
    COUNT_LINKS_OPENED
    COUNT_LINKS_CLOSED
    COUNT_LINK_PROTOCOL_ERRORS
    COUNT_LINK_UNKNOWN_STREAM_FRAMES
    COUNT_LINK_BYTES_IN
    COUNT_LINK_BYTES_OUT
    COUNT_LINK_FLUSHES
    COUNT_PINGS_SENT
    COUNT_AUTH_ASKED
    COUNT_AUTH_REFUSED
    COUNT_CONTROL_RECORDS
    COUNT_TARGETS_CONNECTED
    COUNT_TARGETS_FAILED
    COUNT_LOG_RECORDS
    COUNT_LOG_DROPPED
    COUNT_VISITOR_BYTES_IN
    COUNT_VISITOR_BYTES_OUT
    COUNT_MEMORY_ERRORS
    COUNTER_COUNT

cdef inline void count(uint64_t *counters, int which, uint64_t amount) noexcept nogil:
    counter_add(&counters[which], amount)

cdef str counter_name(int which)
