# Connections that change workers, in a message that owns the socket and has the unread
# bytes behind it. What a visitor's request was so far travels as values, never by pointer.
#
#   visitor   its request's tunnel has no link on this worker: to one that should. There its
#             head is parsed and routed again, as after any wait (docs/adr/0004), so a link
#             that has gone meanwhile is found out there; it may move on, MOVES_MAX times.
#   device    accepted here, but its link is to live elsewhere: moves behind its 101.
#
# Both at a message boundary: nothing of an answer may be owed any more.
#
# The route a visitor moves by may not have reached the other worker's table yet: the
# message says how new the sender's table was, and waits there for the rest.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.forward.route cimport TUNNEL_NAME_SIZE_MAX
from proxy_engine_core.forward.transaction cimport REQUEST_ID_MAX, ServerRole, Visitor
from proxy_engine_core.http1.traceparent cimport Trace
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.socket cimport ADDRESS_TEXT_SIZE
from proxy_engine_core.io.worker cimport Tls, Worker
from proxy_engine_core.link.establish cimport LinkSetup


cdef enum:
    # Tables and links change while a visitor is on its way, but not four times in a row.
    MOVES_MAX = 4

cdef struct MoveMessage:                  # then `size` unread bytes
    MailboxNode node
    LinkSetup setup                       # device: of its link; visitor: its quota is joined_by
    uint64_t routes_version               # of the sender's table
    uint64_t deadline_ms                  # monotonic, the same clock on every worker; 0: none
    uint64_t started_us                   # visitor: of its request, and what follows
    uint64_t refused_by
    uint64_t address_key
    uint64_t bytes_passed
    uint32_t requests
    uint32_t log_flags
    Tls *tls                              # owned, as the fd is; NULL: none
    int fd
    uint32_t size
    uint16_t port
    uint16_t request_id_size
    uint8_t trace_size
    uint8_t trace_flags
    uint8_t moves
    uint8_t flags                         # CONN_READABLE ...
    uint8_t address_size
    bint is_waiting
    bint is_admitted
    bint is_quota_admitted
    bint is_device
    uint8_t tunnel_size                   # a TCP tunnel's visitor: what it asked for
    uint8_t tunnel[TUNNEL_NAME_SIZE_MAX]
    char address[ADDRESS_TEXT_SIZE]
    uint8_t request_id[REQUEST_ID_MAX]
    Trace trace

# Send a visitor with a parsed but unused head among its `size` unread bytes to another
# worker. False: no memory, nothing has happened.
cdef bint visitor_move(
    Visitor *visitor, uint32_t index, const uint8_t *bytes, uint32_t size
) noexcept nogil
# Send a device, its 101 sent, to the worker where its link will live.
cdef bint device_move(Visitor *visitor, uint32_t index, const LinkSetup *setup) noexcept nogil
# Take one in. True: kept until the routes it has been sent by are here.
cdef bint move_receive(Worker *worker, MoveMessage *message) noexcept nogil
# The table has changed: take in who waited for it.
cdef void moves_resume(ServerRole *role) noexcept nogil
cdef void move_discard(MoveMessage *message) noexcept nogil       # close what it owns
