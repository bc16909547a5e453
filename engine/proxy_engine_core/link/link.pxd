# A link: one device connection carrying one yamux session, raw or inside WebSocket
# messages. Both roles use it: the device is the yamux client, the server opens streams.
# It knows its users only by the tables of functions below.
#
#   link        what a link is
#   output      frames leave at the end of a turn; sources of bulk take turns
#   end         a link ends: at once, politely, or for what its peer did
#   control     records between the two control planes, on stream 1
#   keepalive   pings, the round trip, a peer that stalls
#   input       what came in goes to the owners of streams
#   establish   a connection becomes a link
#
# Each uses those above it.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer
from proxy_engine_core.durations cimport Durations
from proxy_engine_core.flood cimport Flood
from proxy_engine_core.io.worker cimport Conn, WaitList, Worker
from proxy_engine_core.quota cimport Quota
from proxy_engine_core.websocket.frame cimport WS_CONTROL_SIZE_MAX, WsReader
from proxy_engine_core.yamux.session cimport WindowBudget, YamuxSession, YamuxStream


cdef enum Carrier:
    CARRIER_RAW = 0
    CARRIER_WEBSOCKET = 1

cdef enum:
    RESET_LINK_LOST = 0x10000             # local only: the code streams get when a link goes

cdef enum:
    # The first byte of a control record that is no JSON, and never reaches Python.
    CONTROL_TICKETS = 1
    CONTROL_ENDED = 2
    TICKET_SIZE = 32                      # bytes; twice as many as hexadecimal digits
    DATA_NAME_SIZE = 8                    # what one side calls a direct connection: its handle

cdef enum OwnerKind:
    OWNER_NONE = 0
    OWNER_CONTROL
    OWNER_HTTP                            # server: HttpStream
    OWNER_TARGET                          # agent: Target
    OWNER_UDP                             # server: UdpVisitor
    OWNER_UDP_TARGET                      # agent: UdpTarget
    OWNER_KIND_COUNT

cdef struct StreamOps:
    void (*data)(Link *link, YamuxStream *stream, uint8_t *bytes, size_t size) noexcept nogil
    void (*writable)(Link *link, YamuxStream *stream) noexcept nogil
    void (*accepted)(Link *link, YamuxStream *stream) noexcept nogil
    void (*finished)(Link *link, YamuxStream *stream) noexcept nogil
    void (*reset)(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil  # must release

cdef struct LinkHost:                     # first member of a worker's role
    StreamOps ops[OWNER_KIND_COUNT]
    # Agent: the server opened a stream: take it or release it.
    void (*opened)(Link *link, YamuxStream *stream) noexcept nogil
    void (*housekeep)(Link *link) noexcept nogil       # link timer; server: trim pools
    void (*closed)(Link *link) noexcept nogil          # all streams are gone
    # Agent: tickets for data connections, TICKET_SIZE bytes each.
    void (*tickets)(Link *link, const uint8_t *bytes, uint32_t size) noexcept nogil
    # The end of this direct connection, ours by that name, is one. False: there is no such.
    bint (*ended)(Link *link, uint64_t name) noexcept nogil
    WindowBudget windows                  # of all links of this worker
    Durations round_trips                 # of pings

cdef struct LinkWebSocket:                # what only a link in WebSocket has
    WsReader reader
    uint32_t pong_size
    uint8_t pong[WS_CONTROL_SIZE_MAX]     # answer to the last ping

cdef struct Link:                         # one block with its LinkWebSocket and its peer's text
    Conn conn
    YamuxSession session
    LinkWebSocket *websocket              # NULL: raw
    Buffer control_in                     # a control record not complete yet
    Buffer control_out                    # control bytes waiting for window
    YamuxStream *control
    Buffer urgent                         # frames that go before those in conn.out
    WaitList waiting                      # sources waiting for room
    void *pools                           # server: StreamPool list
    void *opening_first                   # server: visitors waiting for a stream, oldest first
    void *opening_last
    uint32_t opening_count
    void *direct                          # server: DirectPool, agent: DataDialer; NULL: none
    uint32_t direct_max                   # server: idle data connections at most; 0: never any
    uint32_t requests                     # server: streams that serve a request now
    uint64_t requests_ns                  # server: bucket.pxd, of requests
    uint64_t id                           # what Python calls it
    uint64_t device                       # server: the control plane's id
    Quota *quota                          # server: shared with others, and held; NULL: none
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t bytes_told                   # server: of both, by the last look at loads
    uint64_t up_ms
    uint64_t input_ms                     # last time anything came in
    uint64_t ping_ms                      # last ping sent or missed
    uint64_t ping_us                      # when the ping under way left
    uint64_t ping_bytes                   # bytes_in and bytes_out then
    uint64_t rtt_us                       # the round trip as measured so far; 0: never
    uint32_t rtt_samples
    uint32_t rtt_period_ms                # the next ping of a link in use comes after this
    uint64_t progress_ms                  # last time the socket took anything
    uint64_t unknown_frames_seen          # of the session's counts, what ours have already
    uint64_t streams_refused_seen
    uint64_t websocket_pings              # counted for `flood`, as are control records
    uint64_t records
    Flood flood                           # server: what the device may send of little use
    uint32_t streams_max                  # live streams the peer stands
    uint32_t sealed                       # bytes of conn.out that nothing passes any more
    uint32_t urgent_sealed                # ... of urgent
    uint8_t ping_misses
    uint8_t carrier                       # and flags, a byte each: every device has a Link
    uint8_t pong_due
    uint8_t is_congested                  # the socket is full, and has been since the last rest
    uint8_t is_client
    uint8_t has_preamble                  # our agent: streams start with a PROXY v2 header
    uint8_t is_closing
    uint8_t is_spent                      # many streams were opened: Python knows
    uint8_t is_draining                   # server: no new requests, no idle streams
    uint8_t closes_when_idle              # ... and the last one that ends takes the link along
    char *peer                            # "ip:port"

cdef inline LinkHost *link_host(Worker *worker) noexcept nogil:
    return <LinkHost *>worker.role

cdef inline Link *link_of(YamuxStream *stream) noexcept nogil:
    return <Link *>(<char *>stream.session - <size_t>&(<Link *>NULL).session)
