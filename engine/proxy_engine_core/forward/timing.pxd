# Where the time went, for the visitor's browser: the Server-Timing field (W3C Server Timing).

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.forward.transaction cimport Transaction


cdef enum:
    TIMING_SIZE_MAX = 160

# "Server-Timing: proxy;dur=0.110, link;dur=31.204, target;dur=12.330" and its CRLF, in
# milliseconds, of a transaction whose target has answered. Without a link whose round trip is not
# known yet. Returns the bytes written, at most TIMING_SIZE_MAX.
cdef uint32_t timing_write(uint8_t *target, const Transaction *transaction) noexcept nogil
