# Whether the peer is there, and how far away it is. A link that was silent is pinged; two
# pings unanswered, or output that does not move, end it. A link in use is pinged to measure
# its round trip (round_trip.pxd), from which windows grow (yamux/window.pxd).

from libc.stdint cimport uint32_t

from proxy_engine_core.io.worker cimport Conn
from proxy_engine_core.link.link cimport Link


cdef enum:
    LINK_RTT_BUSY_SIZE = 64 * 1024        # bytes moved since the last ping: the link is in use
    LINK_RTT_PERIOD_MIN_MS = 20           # a link in use is measured often at first ...
    LINK_RTT_PERIOD_MAX_MS = 1000         # ... then this often: the period doubles

cdef void keepalive_start(Link *link) noexcept nogil
cdef void link_timeout(Conn *conn) noexcept nogil              # ConnOps.timeout
cdef void round_trip_measure(Link *link) noexcept nogil        # a ping, unless one is under way
cdef void round_trip_take(Link *link) noexcept nogil           # the pong is here

cdef inline void round_trip_look(Link *link) noexcept nogil:
    # At each input.
    if (
        link.bytes_in + link.bytes_out - link.ping_bytes < LINK_RTT_BUSY_SIZE
        or link.input_ms - link.ping_ms < link.rtt_period_ms
    ):
        return
    link.rtt_period_ms = min(2 * link.rtt_period_ms, <uint32_t>LINK_RTT_PERIOD_MAX_MS)
    round_trip_measure(link)
