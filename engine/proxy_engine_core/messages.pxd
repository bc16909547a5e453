# Messages to a worker, all but MOVE from the control plane. One malloc'ed block each, MailboxNode
# first, variable bytes behind; the worker frees it after on_message().

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.forward.route cimport TUNNEL_NAME_SIZE_MAX, Route
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport CONN_KIND_COUNT
from proxy_engine_core.link.establish cimport LinkSetup
from proxy_engine_core.quota cimport Quota


cdef enum MessageKind:                    # 0 is the worker's own MESSAGE_STOP
    MESSAGE_DRAIN = 1
    MESSAGE_LINK_SEND
    MESSAGE_LINK_CLOSE
    MESSAGE_LINK_DRAIN                    # server
    MESSAGE_LINK_FLUSH                    # server
    MESSAGE_LINK_LOADS                    # server; nothing behind it
    MESSAGE_LINKS_LOOK                    # server; the same
    MESSAGE_AUTH_REPLY
    MESSAGE_ROUTE_SET
    MESSAGE_ROUTE_DELETE
    MESSAGE_MOVE                          # from another worker: forward/move.pxd
    MESSAGE_TCP_LISTEN
    MESSAGE_TCP_CLOSE
    MESSAGE_TLS
    MESSAGE_UDP_LISTEN                    # to one worker, as CLOSE
    MESSAGE_UDP_CLOSE
    MESSAGE_QUOTA_CHANGED                 # server
    MESSAGE_QUOTA_ENDED                   # server
    MESSAGE_REQUESTS_OPEN                 # server
    MESSAGE_DUMP                          # server
    MESSAGE_DIAL                          # agent
    MESSAGE_TARGETS

cdef struct DrainMessage:
    MailboxNode node
    uint64_t grace_ms

# Behind it: LINK_SEND a record, LINK_CLOSE a reason with its NUL, LINK_DRAIN
# something if the link is to close itself when it is idle, LINK_FLUSH the id of a route (uint32).
cdef struct LinkMessage:
    MailboxNode node
    uint64_t link
    uint32_t size

cdef struct AuthReplyMessage:             # then the response bytes
    MailboxNode node
    uint64_t ticket
    LinkSetup setup                       # with a reference to its quota
    int worker                            # where the link will live; -1: the engine chooses
    bint accept
    uint8_t tunnel_size                   # 0: a link; else a connection to this TCP tunnel
    uint8_t tunnel[TUNNEL_NAME_SIZE_MAX]
    uint32_t size

cdef struct TcpListenMessage:             # and of UDP. LISTEN: the receiver takes `fd`; CLOSE: none
    MailboxNode node
    int fd
    uint16_t port

cdef struct TlsMessage:                   # for the TLS listeners on `port`
    MailboxNode node
    TlsContext *context                   # owned
    uint16_t port

cdef struct QuotaMessage:                 # with a reference to it
    MailboxNode node
    Quota *quota
    uint32_t cursor                       # the worker's: see forward/walk.pxd

cdef struct OpenMessage:                  # what is under way: forward/walk.pxd
    MailboxNode node
    uint64_t query                        # the control plane's number for it
    uint32_t limit                        # how many at most
    uint32_t cursor                       # the worker's

cdef struct DumpMessage:                  # what there is: forward/dump.pxd
    MailboxNode node
    uint64_t query                        # the control plane's number for it
    uint64_t device                       # whose links; 0: any
    uint32_t links_max                    # how many are told of
    uint32_t streams_max
    uint32_t cursor                       # the worker's from here on: a slot
    uint32_t bucket                       # of the link there: 0: it has not been told
    uint32_t links                        # so far
    uint32_t streams
    uint32_t streams_told
    uint32_t timers
    uint32_t tls
    uint32_t connections[CONN_KIND_COUNT]

# `version` grows by one with every change, and is the same for all workers.
cdef struct RouteMessage:                 # SET: the receiver takes `route` over
    MailboxNode node
    uint64_t version
    Route *route

cdef struct RouteDeleteMessage:           # then the key
    MailboxNode node
    uint64_t version
    uint32_t size

cdef struct DialMessage:                  # then the request bytes, then those of `direct_size`
    MailboxNode node
    Address address
    TlsContext *tls                       # owned; NULL: without
    uint64_t dial                         # what the caller was told: see agent.pyx
    uint64_t timeout_ms
    uint32_t size
    uint32_t direct_size                  # of what asks for a data connection; 0: nothing does
    int fd                                # a socket that is connected already, taken over; or -1
    uint8_t carrier

cdef enum TargetFlag:                     # core.pyi TARGET_*
    TARGET_TCP = 1                        # a TCP tunnel's: a reset is passed on as a reset
    TARGET_PROXY_HEADER = 2               # it is told the visitor by a PROXY protocol v2 header
    TARGET_UDP = 4                        # of a UDP tunnel: streams carry datagrams

cdef struct TargetEntry:
    Address address
    TlsContext *tls                       # owned; NULL: without
    uint8_t flags
    uint8_t name_size
    uint8_t name[63]

cdef struct TargetsMessage:               # the receiver takes `targets` over
    MailboxNode node
    TargetEntry *targets
    uint32_t target_count
