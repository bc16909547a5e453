# A link: one device connection carrying one yamux session, raw or inside WebSocket
# messages. Both roles use it: the device is the yamux client, the server opens streams.
#
# Output: frames are encoded straight into conn.out during the turn and leave in one
# send at its end. On a WebSocket carrier that whole flush becomes one binary message:
# its header goes into the buffer's headroom, the mask over it just before the send.
#
#   conn.out:  headroom | sealed: framed, being sent | open: this turn's frames
#
# Backpressure: sources that find LINK_OUT_HIGH bytes waiting queue up in `waiting` and
# are woken below LINK_OUT_LOW. The link itself is always read.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer, buffer_size
from proxy_engine_core.flood cimport Flood
from proxy_engine_core.io.conn cimport conn_mark_dirty
from proxy_engine_core.io.worker cimport Conn, Worker
from proxy_engine_core.websocket.frame cimport WsReader
from proxy_engine_core.yamux.session cimport WindowBudget, YamuxSession, YamuxStream


cdef enum Carrier:
    CARRIER_RAW = 0
    CARRIER_WEBSOCKET = 1

cdef enum:
    LINK_OUT_HIGH = 256 * 1024            # bytes waiting: sources stop
    LINK_OUT_LOW = 64 * 1024              # ... and go on
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
    Conn *waiting                         # sources waiting for room in conn.out
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
    uint32_t sealed                       # bytes of conn.out already framed
    uint32_t pong_size
    uint8_t pong[125]                     # answer to the last WebSocket ping
    uint8_t ping_misses
    uint8_t carrier
    bint pong_due
    bint is_client
    bint has_preamble                     # our agent: streams start with a PROXY v2 header
    bint is_closing
    bint is_draining                      # server: no new requests, no idle streams
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

cdef inline bint link_is_full(Link *link) noexcept nogil:
    return buffer_size(&link.conn.out) >= LINK_OUT_HIGH
