# What comes in on a link: out of WebSocket messages, if it is in any, to the session, and the
# session's events to the owners of its streams. Payload is handed on as it lies in the
# worker's buffer.

from libc.stdint cimport uint8_t

from proxy_engine_core.io.worker cimport Conn
from proxy_engine_core.link.link cimport Link


cdef enum:
    LINK_READS_MAX = 4                    # link reads before other connections get a turn

cdef void link_ready(Conn *conn) noexcept nogil                # ConnOps.ready
cdef void link_receive(Link *link, uint8_t *bytes, size_t size) noexcept nogil
