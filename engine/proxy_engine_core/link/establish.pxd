# A connection becomes a link.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.io.worker cimport Conn, Worker
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.quota cimport Quota


cdef struct LinkSetup:
    uint64_t id                           # 0: the connection's handle
    uint64_t device
    uint32_t window
    uint32_t streams_max
    uint32_t direct_max                   # server: Link.direct_max
    void *direct                          # agent: Link.direct, taken over
    Quota *quota                          # NULL: none; the link holds it on its own
    uint8_t carrier
    bint is_client
    bint has_preamble

cdef void link_init_worker(Worker *worker) noexcept nogil
# Turn an established connection (after its 101, and crew_add_link()) into a link and emit
# EVENT_LINK_UP; NULL: no memory, the connection is closed. `early` bytes came in behind the
# handshake; the link may be gone again (EVENT_LINK_DOWN) when this returns.
cdef Link *link_establish(
    Conn *conn, const LinkSetup *setup, const char *peer, const uint8_t *head, uint32_t head_size,
    uint8_t *early, uint32_t early_size
) noexcept nogil
