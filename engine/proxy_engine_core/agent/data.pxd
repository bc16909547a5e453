# Direct connections, the device's end: dialled ahead for tickets that came over the link
# (CONTROL_TICKETS), idle until the server has a visitor for one, then relayed (io/relay.pxd)
# between the server and the target.
#
#   CONNECTING -> ASKED -> IDLE -> TARGET -> OPEN
#        |          |       |        |        the link goes: all of them go
#     none of these failures is told: the ticket expires, and visitors go over streams
#
#   ASKED   the Upgrade with its ticket is on its way     IDLE    101
#   TARGET  a name and a PROXY protocol header came       OPEN    its target is connected, and
#                                                                 the server has a 0 and our name

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.agent.connect cimport TargetConn
from proxy_engine_core.buffer cimport Buffer
from proxy_engine_core.io.acks cimport Acks
from proxy_engine_core.io.relay cimport RelayWay
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.worker cimport Conn, Worker
from proxy_engine_core.link.link cimport Link


cdef enum:
    DIRECT_REQUEST_SIZE_MAX = 2048

cdef struct DataDialer:                   # Link.direct; then the request up to its ticket
    Address server
    Data *first                           # all of the link
    uint32_t idle_count                   # ... but those in use
    uint32_t size

cdef enum DataState:
    DATA_CONNECTING = 0
    DATA_ASKED
    DATA_IDLE
    DATA_TARGET
    DATA_OPEN

cdef struct Data:
    Conn conn
    Link *link
    Data *next
    Data *previous
    DirectTarget *target                  # TARGET, OPEN
    Buffer input                          # what came and is not used yet
    RelayWay up                           # server -> target
    RelayWay down
    uint32_t scanned                      # of input, for the end of the answer's head
    uint64_t peer_name                    # what the server calls it
    bint has_word                         # ... which knows that the target has finished
    uint8_t state

cdef struct DirectTarget:
    TargetConn base                       # must be first
    Data *data                            # NULL: given up
    Acks acks

cdef void data_init_worker(Worker *worker) noexcept nogil
cdef DataDialer *data_dialer_new(
    const Address *server, const uint8_t *request, uint32_t size
) noexcept nogil                          # NULL: no memory
cdef void data_dial(Link *link, const uint8_t *tickets, uint32_t size) noexcept nogil
cdef bint data_ended(Link *link, uint64_t name) noexcept nogil   # LinkHost.ended
cdef void data_close(Link *link) noexcept nogil                # LinkHost.closed
