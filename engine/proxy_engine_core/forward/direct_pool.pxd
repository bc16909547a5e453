# Direct connections for TCP tunnels, the server's stock: connections that the device has dialled
# ahead, for whole visitors, so that bulk needs no frames, no windows and no other stream's turn.
#
#   ticket    32 bytes: the link's handle, then 24 from getrandom(). It goes to the device in a
#             control record; each asks for one connection, lets one in, and lives direct_ticket_ms
#   GET /_proxy/data with the ticket   moves to the link's worker as any visitor would, gets its
#             101 and is idle here, until a visitor takes it (direct.pxd)
#
# A link has a pool from when the first route of a TCP tunnel names it; those of HTTP have none.
# It begins with POOL_MIN connections, wants twice as many when a visitor finds none, up to what
# both sides allow, and a quarter fewer each time so many were never needed for direct_shrink_ms.
# Tickets leave REFILL_MS apart at the earliest, from the link's timer: in a storm of short
# connections most go by streams, which are cheaper for them. When no ticket comes back,
# something on the way stands against it: pauses, each twice as long.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.transaction cimport DataConn, Visitor
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link


cdef enum:
    POOL_MIN = 4
    POOL_MAX = 64
    REFILL_MS = 50
    LOST_PAUSE_MS = 1_000                 # after an idle one has broken
    PAUSE_MS = 10_000                     # the first
    PAUSE_MS_MAX = 640_000

cdef struct Ticket:
    uint64_t deadline_ms
    uint8_t secret[24]

cdef struct DirectPool:
    DataConn *idle                        # newest first
    DataConn *busy
    uint32_t idle_count
    uint32_t lowest                       # ... since the last look
    uint32_t wanted                       # idle ones and tickets
    uint32_t ticket_count
    uint32_t answered                     # tickets used since the last pause
    uint64_t refill_ms                    # no tickets before this
    uint64_t look_ms                      # when it may shrink next
    uint64_t pause_ms                     # how long the last pause was; 0: none
    Ticket tickets[POOL_MAX]

# The links of a TCP tunnel's route that live here get their pools.
cdef void direct_begin(Worker *worker, const Route *route) noexcept nogil
# A connection for a visitor, counted among the link's requests; NULL: a stream has to do.
cdef DataConn *direct_take(Link *link, Visitor *visitor) noexcept nogil
# Close it, and give its visitor's place back. `is_reset`: not by an end that looks complete.
cdef void direct_release(DataConn *data, bint is_reset) noexcept nogil
# The worker that a request's ticket belongs to; -1: it has none, or nonsense.
cdef int ticket_worker(Worker *worker, const Head *head) noexcept nogil
# The link whose ticket it was, which nobody can use again; NULL: it is not good.
cdef Link *ticket_redeem(Worker *worker, const Head *head) noexcept nogil
# An idle connection more; the link has a pool.
cdef void direct_put(Link *link, DataConn *data) noexcept nogil
cdef void direct_lost(DataConn *data) noexcept nogil      # an idle one that broke, or spoke
cdef void direct_housekeep(Link *link) noexcept nogil     # the link's timer. May end the link
cdef void direct_drain(Link *link) noexcept nogil         # nothing idle from now on
cdef void direct_pool_free(Link *link) noexcept nogil     # none is in use any more; idempotent
