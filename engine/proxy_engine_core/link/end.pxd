# A link ends: its streams are reset, its users told, and EVENT_LINK_DOWN says why.

from proxy_engine_core.io.worker cimport Conn, Worker
from proxy_engine_core.link.link cimport Link


cdef void link_fail(Link *link, const char *reason) noexcept nogil        # at once; idempotent
cdef void link_close(Link *link, const char *reason) noexcept nogil       # polite; idempotent
cdef void links_close_all(Worker *worker, const char *reason) noexcept nogil
# Counted, GoAway(1), and then as link_fail().
cdef void link_protocol_error(Link *link, const char *reason) noexcept nogil
# Before link_fail(): what the socket takes now, and a WebSocket close behind it. Best effort.
cdef void link_say_goodbye(Link *link) noexcept nogil

cdef void link_flush(Conn *conn) noexcept nogil                # ConnOps.flush
cdef void link_release(Conn *conn) noexcept nogil              # ConnOps.release
