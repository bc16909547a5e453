# Public HTTP: the structs of a visitor's connection and of one request on it, and the
# verbs that begin and end a request. The life of a request:
#
#   visitor.pyx   the connection: accepted, woken, timed out, drained; by state it calls
#   request.pyx   HEAD --parse, describe, admit, route-->
#   dispatch.pyx  a stream of the pool, or WAITING for one --rewritten head--> ACTIVE
#   body.pyx      request body: visitor -> stream, as far as window and link allow
#   response.pyx  stream -> head parse, rewrite -> visitor; body as framed
#   transaction   finish (log, stream back to the pool, next request), fail (an answer of
#                 our own, or an abort once the head is out)
#   retry         what goes out once more when a stream or a link fails
#   clock         how long a visitor may take for its part
#   pace          waiting for bandwidth
#   link_request  not a visitor but a device: the control plane is asked
#
#   HEAD -> WAITING -> HEAD      no stream free: the head stays in visitor.input
#   HEAD -> ACTIVE -> HEAD       keep-alive
#   ACTIVE -> TUNNEL             after 101
#   HEAD -> AUTH -> (link)       a device asks for a link
#   (TCP_HEADER ->) TCP_OPENING -> TUNNEL     a TCP tunnel's visitor: tcp.pxd
#   TCP_OPENING -> DIRECT        over a connection of its own: direct.pxd
#   any -> LINGER -> closed      last bytes out, then the rest of the input is read off

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer
from proxy_engine_core.counters cimport COUNT_VISITOR_BYTES_IN, COUNT_VISITOR_BYTES_OUT, count
from proxy_engine_core.forward.addresses cimport AddressEntry, AddressTable
from proxy_engine_core.forward.idle cimport IdleLimit
from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.reply cimport Reply
from proxy_engine_core.forward.route cimport Route, RouteTable
from proxy_engine_core.forward.route_stats cimport (
    RouteStats, route_stats_begin, route_stats_bytes, route_stats_leave,
)
from proxy_engine_core.http1.chunked cimport ChunkReader
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.http1.traceparent cimport Trace
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.io.relay cimport RelayWay
from proxy_engine_core.io.socket cimport ADDRESS_TEXT_SIZE
from proxy_engine_core.io.timer cimport Timer, TimerWheel
from proxy_engine_core.io.udp cimport UdpInput, UdpOutput
from proxy_engine_core.io.worker cimport Conn, Worker
from proxy_engine_core.link.link cimport Link, LinkHost
from proxy_engine_core.quota cimport Quota
from proxy_engine_core.yamux.session cimport YamuxStream


cdef enum VisitorState:
    VISITOR_HEAD = 0
    VISITOR_WAITING
    VISITOR_ACTIVE
    VISITOR_TUNNEL
    VISITOR_AUTH
    VISITOR_LINGER
    VISITOR_TCP_HEADER                    # tcp.pxd
    VISITOR_TCP_OPENING
    VISITOR_DIRECT                        # direct.pxd

cdef enum ResponseState:
    RESPONSE_HEAD = 0
    RESPONSE_BODY
    RESPONSE_DONE

cdef enum LogFlag:                        # core.pyi LOG_*
    LOG_REUSED = 1
    LOG_RETRIED = 2
    LOG_ABORTED = 4
    LOG_TUNNEL = 8
    LOG_LOCAL = 16
    LOG_TCP = 32
    LOG_OPEN = 64                         # not finished: in a list of what is under way
    LOG_UDP = 128
    LOG_HTTP10 = 256                      # the visitor spoke HTTP/1.0

cdef enum:
    LOG_METHOD_SIZE_MAX = 24
    LOG_HOST_SIZE_MAX = 255
    LOG_PATH_SIZE_MAX = 1024
    REQUEST_ID_MAX = 128
    VISITOR_OUT_HIGH = 128 * 1024         # bytes a slow visitor may owe before its next request

cdef struct StreamPool:                   # idle HTTP streams of one tunnel of one link
    StreamPool *next
    HttpStream *newest                    # LIFO: the warmest is used first
    HttpStream *oldest                    # trimmed from here
    uint32_t count
    uint32_t route
    uint32_t flushes                      # pool_flush(), so far
    IdleLimit idle

cdef struct HttpStream:                   # a stream to a target, over many requests
    YamuxStream *stream
    Visitor *visitor                      # NULL: idle, in its pool
    StreamPool *pool
    const Profile *profile                # its tunnel's, when it was opened
    HttpStream *newer
    HttpStream *older
    uint64_t idle_since_us
    uint64_t idled_us                     # before it was taken for the request it serves now
    uint32_t flushes                      # of its pool, when it was opened
    bint is_reused

cdef struct DataConn:                     # a direct connection to a link's device: direct_pool.pxd
    Conn conn
    Link *link
    DataConn *newer                       # in the list of those idle, or of those in use
    DataConn *older
    Visitor *visitor                      # NULL: idle
    RelayWay up                           # visitor -> target
    RelayWay down
    uint64_t peer_name                    # what the device calls it
    uint8_t answer[9]                     # of the device: a code, its name of the connection
    uint8_t answer_size                   # bytes of it that have come
    bint is_accepted                      # the target is connected
    bint has_word                         # the device knows that the visitor has finished

cdef struct Transaction:
    HttpStream *http
    DataConn *data                        # instead of http
    Link *link
    Policy *policy                        # held, if it changes the response; else NULL
    Quota *quota                          # that it is counted in, its link's; NULL: no limits
    Quota *joined_by                      # TCP: held, for who joined it may have to go; or NULL
    RouteStats *stats                     # of its route; NULL: none yet, or not any more
    uint64_t device
    uint32_t route
    uint32_t log_flags
    # the request, towards the target
    int64_t request_remaining             # BODY_LENGTH: bytes still to come
    uint64_t request_size                 # body bytes so far
    ChunkReader request_chunks
    uint64_t upload_since_ms              # clock.pxd; 0: does not run
    uint64_t upload_stopped_ms            # 0: it runs
    uint8_t request_framing
    bint request_done
    uint8_t method
    uint8_t minor_version
    bint wants_upgrade
    bint accepts_html
    bint keep_alive                       # the visitor's connection outlives this request
    bint is_last                          # the visitor said that it asks for no more
    bint is_tcp                           # no request: a TCP tunnel's connection
    bint is_https                         # how the visitor came; only told where `policy` is held
    bint is_waiting                       # for a stream or room in the link: open_timeout_ms runs
    bint is_admitted                      # by its address's rate, once
    bint is_device_admitted               # ... and by its device's
    bint is_quota_admitted                # ... and by its quota's
    bint is_kept                          # `kept` is the whole request so far: see retry.pxd
    Buffer kept
    uint64_t bytes_out_before             # of the link, when the request was put on it
    uint64_t refused_by                   # the link whose agent refused the first try
    uint8_t moves                         # from worker to worker
    # the response, towards the visitor
    Buffer response_head                  # of a head split over frames
    uint32_t response_scanned
    uint8_t response_state
    uint8_t response_framing
    uint8_t reframe
    bint head_sent                        # a final status line is on its way to the visitor
    bint target_keep_alive
    bint tunnel_visitor_done              # TUNNEL: the visitor finished writing
    bint tunnel_target_done
    int64_t response_remaining
    ChunkReader response_chunks
    # what the log tells
    uint64_t started_us
    uint64_t sent_us                      # request head on its way; TCP: its stream
    uint64_t first_byte_us                # response head in; TCP: the target is connected
    uint32_t link_us                      # of the time between the two, the link's
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t counted_in                   # of them, in `stats` and the worker's counters
    uint64_t counted_out
    uint16_t status
    uint8_t method_size
    uint8_t host_size
    uint8_t client_size                   # 0: the visitor is who asks, not a proxy
    uint64_t client_key                   # addresses.pxd
    uint16_t path_size
    uint16_t request_id_size
    uint8_t trace_size                    # 0: no trace
    uint8_t trace_flags
    uint8_t method_name[LOG_METHOD_SIZE_MAX]
    char client[ADDRESS_TEXT_SIZE]        # for whom a trusted proxy asks
    uint8_t host[LOG_HOST_SIZE_MAX]
    uint8_t path[LOG_PATH_SIZE_MAX]
    uint8_t request_id[REQUEST_ID_MAX]
    Trace trace

cdef struct Visitor:
    Conn conn
    Buffer input                          # bytes read but not used yet
    Transaction *transaction
    Visitor *opening_next                 # WAITING: in opening_link's queue
    Visitor *opening_previous
    Link *opening_link
    Timer pace                            # armed: it waits for bandwidth, see pace.pxd
    AddressEntry *address_entry           # of the worker's table; NULL: no limits, no room
    uint64_t address_key                  # 0: a trusted proxy's
    uint64_t bytes_passed                 # to it by earlier requests
    uint64_t reader_since_ms              # its output has been waiting; 0: none does
    uint64_t reader_moved_ms              # ... and last moved
    uint64_t reader_taken                 # bytes it had taken when its output began to wait
    uint32_t requests                     # so far
    uint32_t scanned                      # of input, for the end of its head
    uint32_t lingered                     # bytes read off so far
    uint16_t port
    uint8_t state
    uint8_t address_size
    char address[ADDRESS_TEXT_SIZE]

cdef struct LinksSeen:                    # by the last look: link_gauges.pxd
    uint64_t looks
    uint64_t streams
    uint64_t streams_waiting              # requests that have none yet
    uint64_t queue_bytes
    uint64_t round_trip_us_max
    uint64_t window_extra_bytes           # lent to streams beyond the agreed windows
    uint64_t windows_grown
    uint64_t window_withheld_bytes

cdef struct ServerRole:
    LinkHost host                         # must be first
    Worker *worker
    RouteTable routes
    uint64_t routes_version               # of the last change to it
    MailboxNode *early_moves              # MoveMessages ahead of our routes
    MailboxNode *late_ports               # TcpListenMessages that no memory was had for
    AddressTable addresses                # without entries: no limit is set
    Head head                             # scratch of the parse under way
    TimerWheel pace_wheel                 # visitors that wait for bandwidth ...
    uint32_t pace_count                   # ... how many
    Conn pacer                            # ... and the timer for them: no connection
    Transaction *free_transactions        # linked through `http`
    uint32_t marked_routes                # recheck.pxd
    uint32_t active                       # visitors between head and last byte
    uint64_t request_id_prefix
    uint64_t request_id_next
    RouteStats unrouted                   # of what no route was found for
    LinksSeen links_seen
    UdpInput *udp_input                   # NULL until a UDP port is listened on
    UdpOutput *udp_output

cdef inline ServerRole *server_of(Worker *worker) noexcept nogil:
    return <ServerRole *>worker.role

# A transaction for the visitor's next request (kept over waiting and retry); NULL: no memory.
cdef Transaction *transaction_begin(Visitor *visitor) noexcept nogil
cdef Transaction *transaction_new(Visitor *visitor) noexcept nogil   # of a request begun elsewhere
# Where visitors of a route are counted; with those of none if there is no memory for it.
cdef RouteStats *stats_of(Worker *worker, Route *route) noexcept nogil
# Its route has been found, perhaps not for the first time. From here on it is one of its requests.
cdef inline void transaction_routed(
    Worker *worker, Transaction *transaction, Route *route
) noexcept nogil:
    cdef RouteStats *stats = route.stats if route.stats != NULL else stats_of(worker, route)
    transaction.route = route.id
    if transaction.stats == stats:
        return
    if transaction.stats != NULL:
        route_stats_leave(transaction.stats)
    transaction.stats = stats
    route_stats_begin(stats)

# Count what has passed since the last time. Of what lasts, when something has; never of a request
# that may be sent again, and so counts its bytes anew.
cdef inline void transaction_count(Worker *worker, Transaction *transaction) noexcept nogil:
    cdef uint64_t bytes_in = transaction.bytes_in - transaction.counted_in
    cdef uint64_t bytes_out = transaction.bytes_out - transaction.counted_out
    transaction.counted_in = transaction.bytes_in
    transaction.counted_out = transaction.bytes_out
    route_stats_bytes(transaction.stats, bytes_in, bytes_out)
    count(worker.counters, COUNT_VISITOR_BYTES_IN, bytes_in)
    count(worker.counters, COUNT_VISITOR_BYTES_OUT, bytes_out)

# The target has answered. Between `sent_us` and now a round trip of the link was not its doing: the
# least that one takes, for what waited in queues is nobody's in particular.
cdef inline void transaction_answered(Transaction *transaction, uint64_t now_us) noexcept nogil:
    transaction.first_byte_us = now_us
    transaction.link_us = <uint32_t>min(
        transaction.link.round_trip.us, now_us - transaction.sent_us
    )

cdef void transaction_free(Visitor *visitor) noexcept nogil      # without a log record
# From now on it is a connection to a TCP tunnel: ":PORT" or a name. The log shows it as host.
cdef void transaction_set_tcp(
    Transaction *transaction, const uint8_t *tunnel, uint32_t size
) noexcept nogil
# The response is complete: log it, give the stream back, go on with the connection.
cdef void transaction_finish(Visitor *visitor) noexcept nogil
# End it for `reason` (docs/errors.md): an answer of our own with `status` while nothing was
# sent, else an abort. `code` is what the stream is reset with.
cdef void transaction_fail(
    Visitor *visitor, int status, const char *reason, const char *text
) noexcept nogil
# The same, by a reply with its status, reason and text, and a page if it has one.
cdef void transaction_answer(Visitor *visitor, Reply *reply) noexcept nogil
# Stop after the bytes already queued; read off the rest of the input if it may still come.
cdef void visitor_finish(Visitor *visitor) noexcept nogil
cdef void visitor_linger(Visitor *visitor) noexcept nogil       # one step of LINGER
cdef void visitor_close(Visitor *visitor) noexcept nogil        # at once; no log
cdef void server_free_transactions(ServerRole *role) noexcept nogil
