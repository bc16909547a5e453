# HTTP streams to a tunnel's target: opened, reused, pooled idle per (link, tunnel).

from libc.stdint cimport int32_t, uint8_t, uint32_t

from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.transaction cimport HttpStream, Visitor
from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.yamux.session cimport YamuxStream


# A stream for a request whose head takes `head_size` bytes of window: the most recently
# used idle one that was idle less than 1 / `idle_divisor` of its tunnel's learnt limit (0: do
# not reuse), else a new one. NULL: if pool_is_full() wait for pool_wake(), else no memory.
cdef HttpStream *pool_take(
    Link *link, const Route *route, uint32_t head_size, uint32_t idle_divisor
) noexcept nogil
# A new stream, with `preamble` as its first bytes; NULL as above.
cdef HttpStream *pool_open(
    Link *link, const Route *route, const uint8_t *preamble, uint32_t preamble_size
) noexcept nogil
# ... of whatever kind: its owner is still to be set. NULL as above.
cdef YamuxStream *pool_stream(Link *link, const Profile *profile) noexcept nogil
cdef bint pool_is_full(const Link *link) noexcept nogil            # no new stream now
cdef void pool_put(HttpStream *http) noexcept nogil                # idle now
cdef void http_stream_release(HttpStream *http, uint32_t code) noexcept nogil
# The target closed the stream, idle or under a request that had no answer yet; or it said how
# long it keeps idle connections. Both teach the limit (idle.pxd).
cdef void pool_stream_lost(HttpStream *http) noexcept nogil
cdef void pool_idle_told(HttpStream *http, int32_t seconds) noexcept nogil
# The link's timer: close what was idle too long, and a drained link whose requests are all done.
cdef void pool_housekeep(Link *link) noexcept nogil
# The target of this route has become another: what is idle is closed, what is not will be.
cdef void pool_flush(Link *link, uint32_t route) noexcept nogil
# No new requests, and no stream is kept idle from now on; with `closes`, the link is closed
# ("drained") once the last request is done.
cdef void pools_drain(Link *link, bint closes) noexcept nogil
cdef void close_soon_if_idle(Link *link) noexcept nogil            # ... was one of them
cdef void pools_close(Link *link) noexcept nogil                   # the link is going

# Visitors waiting for a stream of this link. Only the oldest tries, and stays in the queue
# until it has one; when it leaves, for whatever reason, the next one is woken. So nobody
# overtakes, and no wake-up is lost with a visitor that goes away.
cdef void pool_wait(Link *link, Visitor *visitor) noexcept nogil
cdef void pool_stop_waiting(Visitor *visitor) noexcept nogil
cdef void pool_wake(Link *link) noexcept nogil                     # the oldest may try again
