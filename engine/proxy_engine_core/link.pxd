# A link: one device connection carrying one yamux session, raw or inside WebSocket
# messages. Both roles use it: the device is the yamux client, the server opens streams.
#
# Output: frames are encoded straight into two buffers during the turn and leave at its
# end, in one send each. Frames that pass bulk (yamux/session.pxd) stand in `urgent`, the
# rest in conn.out. What the socket took part of goes on first, but no further than to the
# end of the frame that was cut; then urgent, then the rest. TCP_NOTSENT_LOWAT keeps the
# kernel's part of the queue short.
#
#   conn.out:  headroom | sealed: being sent | open: frames that urgent ones still pass
#
# On a WebSocket carrier what is sealed becomes one binary message: its header goes into
# the headroom, the mask over it just before the send. Messages are short, because one
# can not be left in its middle.
#
# Backpressure and turns: a source of bulk that finds LINK_OUT_HIGH bytes in conn.out queues
# up in `waiting`. Below LINK_OUT_LOW the first ones are woken, each for LINK_QUANTUM bytes;
# then it queues up again. What passes bulk need not wait for it. The link itself is always
# read.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer, buffer_size
from proxy_engine_core.flood cimport Flood
from proxy_engine_core.io.conn cimport conn_mark_dirty
from proxy_engine_core.io.worker cimport Conn, WaitList, Worker
from proxy_engine_core.websocket.frame cimport WsReader
from proxy_engine_core.yamux.session cimport (
    YAMUX_FRAME_PAYLOAD_MAX, WindowBudget, YamuxSession, YamuxStream,
    yamux_stream_urgent_size,
)


cdef enum Carrier:
    CARRIER_RAW = 0
    CARRIER_WEBSOCKET = 1

cdef enum:
    LINK_OUT_HIGH = 256 * 1024            # bytes waiting: sources stop
    LINK_OUT_LOW = 64 * 1024              # ... and go on
    LINK_QUANTUM = 64 * 1024              # bytes of one source while others wait
    LINK_MESSAGE_SIZE = 64 * 1024         # of WebSocket messages while the socket is full ...
    LINK_MESSAGE_SIZE_MAX = 128 * 1024    # ... and while it is not: more gains nothing
    LINK_OUT_MAX = 8 * 1024 * 1024        # control frames ignored by the peer: drop the link
    LINK_READS_MAX = 4                    # link reads before other connections get a turn
    CONTROL_RECORD_SIZE_MAX = 64 * 1024
    CONTROL_STREAM_ID = 1
    CONTROL_RETRY_MS = 50                 # Python is behind with events: look again
    CONTROL_BACKLOG_MAX = 1024 * 1024     # unsent control bytes: a peer that never reads
    LINK_RTT_BUSY_SIZE = 64 * 1024        # bytes moved since the last ping: the link is in use
    LINK_RTT_PERIOD_MIN_MS = 20           # a link in use is measured often at first ...
    LINK_RTT_PERIOD_MAX_MS = 10_000       # ... then this often: the period doubles
    LINK_RTT_SAMPLES_MIN = 3              # the first may have met a machine busy elsewhere
    LINK_RTT_US_MAX = 10_000_000          # a longer one says the peer was away
    RESET_LINK_LOST = 0x10000             # local only: the code streams get when a link goes

cdef enum OwnerKind:
    OWNER_NONE = 0
    OWNER_CONTROL
    OWNER_HTTP                            # server: HttpStream
    OWNER_TARGET                          # agent: Target
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
    WindowBudget windows                  # of all links of this worker

cdef struct Link:
    Conn conn
    YamuxSession session
    WsReader websocket
    Buffer control_in                     # a control record not complete yet
    Buffer control_out                    # control bytes waiting for window
    YamuxStream *control
    Buffer urgent                         # frames that go before those in conn.out
    WaitList waiting                      # sources waiting for room
    void *pools                           # server: StreamPool list
    void *opening_first                   # server: visitors waiting for a stream, oldest first
    void *opening_last
    uint32_t opening_count
    uint32_t requests                     # server: streams that serve a request now
    uint64_t requests_ns                  # server: bucket.pxd, of requests
    uint64_t id                           # what Python calls it
    uint64_t device                       # server: the control plane's id
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
    uint32_t pong_size
    uint8_t pong[125]                     # answer to the last WebSocket ping
    uint8_t ping_misses
    uint8_t carrier
    bint pong_due
    bint is_congested                     # the socket is full, and has been since the last rest
    bint is_client
    bint has_preamble                     # our agent: streams start with a PROXY v2 header
    bint is_closing
    bint is_spent                         # many streams were opened: Python knows
    bint is_draining                      # server: no new requests, no idle streams
    bint closes_when_idle                 # ... and the last one that ends takes the link along
    char peer[64]                         # "ip:port"

cdef struct LinkSetup:
    uint64_t id                           # 0: the connection's handle
    uint64_t device
    uint32_t window
    uint32_t streams_max
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
cdef void link_close(Link *link, const char *reason) noexcept nogil       # polite; idempotent
cdef void link_fail(Link *link, const char *reason) noexcept nogil        # at once; idempotent
cdef void links_close_all(Worker *worker, const char *reason) noexcept nogil
cdef void link_send_control(Link *link, const uint8_t *record, uint32_t size) noexcept nogil

cdef inline LinkHost *link_host(Worker *worker) noexcept nogil:
    return <LinkHost *>worker.role

cdef inline Link *link_of(YamuxStream *stream) noexcept nogil:
    return <Link *>(<char *>stream.session - <size_t>&(<Link *>NULL).session)

cdef inline void link_touch(Link *link) noexcept nogil:
    # Call after anything that may have put frames into conn.out.
    conn_mark_dirty(&link.conn)

cdef inline uint32_t link_waiting_size(const Link *link) noexcept nogil:
    return buffer_size(&link.conn.out) + buffer_size(&link.urgent)

cdef inline bint link_is_full(const Link *link, const YamuxStream *stream) noexcept nogil:
    # Whether a source of this stream, or of a new one (NULL), must wait with more.
    if stream == NULL or yamux_stream_urgent_size(stream):
        return buffer_size(&link.urgent) >= LINK_OUT_HIGH
    return buffer_size(&link.conn.out) >= LINK_OUT_HIGH

cdef inline uint32_t link_allowance(const Link *link, const YamuxStream *stream) noexcept nogil:
    # How much a source that need not wait may put on its stream in one go. While others
    # wait, no more of it than passes them.
    cdef uint32_t most = YAMUX_FRAME_PAYLOAD_MAX
    if buffer_size(&link.conn.out) > LINK_OUT_LOW and yamux_stream_urgent_size(stream):
        most = yamux_stream_urgent_size(stream)
    return min(most, stream.send_window)

cdef inline bint link_turn_is_over(const Link *link, uint32_t moved) noexcept nogil:
    # A source that has moved this much now: the next one's turn. It queues up again.
    return moved >= LINK_QUANTUM and link.waiting.first != NULL
