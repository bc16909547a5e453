# One yamux session: streams, windows and frames. Pure: bytes in, events out, and
# frames encoded straight into the caller's output buffer.
#
# Rules (docs/protocol.md has the reasons, each taught by a real peer):
# - A stream opens with an empty WindowUpdate|SYN, then Data: some peers lose
#   payload that rides on the SYN.
# - FIN is its own empty frame after the data; exactly one FIN and one ACK per
#   stream; nothing after RST.
# - FIN and RST are handled on Data and WindowUpdate frames alike, after the
#   frame's payload or delta.
# - Credit is granted when bytes are *consumed* (the destination took them), in
#   steps of a quarter window. How large the window is, window.pxd says.
# - Frames for unknown streams are ignored and counted; their payload is skipped. So are
#   data and FIN behind a FIN.
# - Payload is delivered as it arrives; a frame is never assembled.
# - An RST frame of either type has no payload and no delta: its length is a code.
# - The peer's new ids need not grow: a stock Go peer that opens from two goroutines
#   takes the ids in order and sends the SYNs in any. Only a live id is an error.
#
# Output goes to two buffers, and `urgent` goes first: control frames, and the first
# YAMUX_BURST_SMALL bytes a stream sends after a rest, so small requests and answers
# pass bulk. All else goes to `out`, and so does what a stream sends while it still has
# bytes there: each stream's data, FIN and RST stay in order.
#
# Lifetime: a stream lives from open (yamux_stream_open or a YAMUX_EVENT_OPEN)
# until its owner calls yamux_stream_release, which resets it on the wire if it is
# not closed both ways. The session never frees a stream by itself, except in
# yamux_session_free.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer


cdef enum:
    YAMUX_WINDOW_INITIAL = 256 * 1024          # bytes; fixed by the spec for strangers
    YAMUX_FRAME_PAYLOAD_MAX = 64 * 1024        # bytes we put in one frame: a lone stream
    YAMUX_FRAME_PAYLOAD_SHARED = 16 * 1024     # ... when others are active too
    YAMUX_BURST_SMALL = 16 * 1024              # bytes a rested stream sends ahead of bulk
    YAMUX_UNACKED_MAX = 256                    # opens without ACK; stock accept backlog

# Reset codes carried in the length of an RST frame; stock peers ignore them.
cdef enum YamuxResetCode:
    YAMUX_RESET_CANCEL = 0
    YAMUX_RESET_REFUSED = 1          # the target refused; nothing was delivered
    YAMUX_RESET_UNREACHABLE = 2      # no route to the target, or its name has no address
    YAMUX_RESET_TIMEOUT = 3          # the target did not answer the connect in time
    YAMUX_RESET_UNKNOWN_TUNNEL = 4   # the preamble names no tunnel of this agent
    YAMUX_RESET_TARGET_LOST = 5      # the target's connection broke after it was open
    YAMUX_RESET_PROTOCOL = 6         # bad preamble or data

cdef enum YamuxError:                # returned by yamux_session_next; answer GoAway(1)
    YAMUX_ERROR_VERSION = -1
    YAMUX_ERROR_TYPE = -2
    YAMUX_ERROR_STREAM_ID = -3       # SYN on a live id, wrong parity, id 0
    YAMUX_ERROR_WINDOW = -4          # the peer overran a window, or grew ours past 2^32-1
    YAMUX_ERROR_FLAGS = -5           # an ACK twice, or never asked for
    YAMUX_ERROR_PING = -6            # a pong nobody asked for
    YAMUX_ERROR_MEMORY = -7

cdef enum YamuxEventKind:
    YAMUX_EVENT_NEED_MORE = 0        # all input used
    YAMUX_EVENT_OPEN                 # the peer opened event.stream; set its owner
    YAMUX_EVENT_DATA                 # event.data, event.size: in the window until consumed
    YAMUX_EVENT_WINDOW               # send_window of event.stream grew
    YAMUX_EVENT_ACK                  # the peer accepted a stream we opened
    YAMUX_EVENT_FIN                  # the peer will send no more on event.stream
    YAMUX_EVENT_RESET                # the peer aborted event.stream, event.code; release it
    YAMUX_EVENT_PONG                 # event.code is the value we sent
    YAMUX_EVENT_GO_AWAY              # event.code: YamuxGoAwayCode

cdef enum YamuxStreamFlag:
    YAMUX_STREAM_SYN_SENT = 1        # we opened it
    YAMUX_STREAM_ACK_SENT = 2
    YAMUX_STREAM_ACK_RECEIVED = 4
    YAMUX_STREAM_FIN_SENT = 8
    YAMUX_STREAM_FIN_RECEIVED = 16
    YAMUX_STREAM_RESET = 32          # by the peer; ours go with the release
    YAMUX_STREAM_UNACKED = 64        # counted in session.unacked_count

cdef struct YamuxStream:
    YamuxSession *session
    YamuxStream *next                # hash chain
    void *owner                      # the caller's, with owner_kind
    uint32_t id
    uint32_t send_window             # bytes we may still send
    uint32_t receive_window          # bytes the peer may still send
    uint32_t unconsumed              # received, not yet consumed by the destination
    uint32_t ungranted               # consumed, not yet granted back
    uint32_t window                  # all of these: what the peer may have on its way
    uint32_t delivered               # bytes the destination took in this epoch
    uint32_t burst                   # bytes sent since its source rested
    uint64_t bulk_end                # where its last bytes in session.out end
    uint64_t urgent_end              # ... in session.urgent
    uint64_t epoch_us                # when the epoch began; 0: none is running
    uint64_t busy_us                 # when the window was last put to use
    uint8_t flags
    uint8_t owner_kind

cdef struct YamuxEvent:
    YamuxStream *stream
    uint8_t *data
    size_t size
    uint32_t code

# What windows may grow to beyond what was agreed on, over all sessions of a worker.
cdef struct WindowBudget:
    const uint64_t *clock_us
    uint64_t extra                   # bytes of credit lent beyond the agreed windows
    uint64_t extra_max               # ... at most, in all
    uint64_t session_max             # ... of one session
    uint32_t stream_max              # largest window of one stream, bytes
    bint is_short                    # memory is: lend nothing, take back what can be had
    uint64_t grown                   # how often a window grew
    uint64_t withheld                # bytes of credit taken back

cdef struct YamuxSession:
    Buffer *out
    Buffer *urgent                   # may be the same as `out`: then all is in order
    uint64_t bulk_end                # bytes ever put into `out`
    uint64_t bulk_start              # ... of them taken for sending; the owner's
    uint64_t urgent_end              # the same of `urgent`
    uint64_t urgent_start
    WindowBudget *budget             # NULL: windows never change
    uint64_t rtt_us                  # of the link, at most 10 s; 0: not known yet
    uint64_t extra                   # bytes of the budget lent to our streams
    YamuxStream **buckets            # id -> stream; power-of-two table, grows
    YamuxStream *payload_stream      # of the frame being read; NULL: skipped
    uint32_t bucket_count
    uint32_t stream_count
    uint32_t streams_max             # peer-opened streams beyond this are reset
    uint32_t unacked_count           # streams we opened, not yet ACKed
    uint32_t window                  # agreed window of every stream, bytes
    uint32_t window_start            # what a stream of the owner's starts with; see open
    uint32_t next_id                 # 0: exhausted
    uint32_t peer_last_id            # the highest id the peer has opened
    uint32_t payload_remaining
    uint32_t payload_flags           # FIN, RST to apply when the payload is through
    uint32_t ping_value
    bint ping_outstanding
    bint is_client
    bint go_away_received
    uint8_t partial_size
    uint8_t partial[12]
    uint64_t unknown_stream_frames   # counters
    uint64_t unknown_stream_bytes
    uint64_t streams_refused
    uint64_t pings_received
    uint64_t opens_received          # SYN
    uint64_t resets_received         # RST, of known streams and of others
    uint64_t empty_frames            # Data and WindowUpdate without payload
    uint64_t surplus_bytes           # payload for no stream, beyond what was owed
    uint64_t owed_bytes              # what streams we reset may still send by their windows
    # Private.
    uint32_t peer_stream_count       # peer-opened and not yet released
    uint32_t first_bucket            # no stream in any bucket before this one
    uint32_t payload_code            # of the RST in payload_flags
    bint go_away_sent
    int error                        # sticky: the YamuxError that ended the session, or 0


cdef void yamux_session_init(
    YamuxSession *session, bint is_client, Buffer *out, Buffer *urgent, uint32_t window,
    uint32_t streams_max
) noexcept nogil
cdef void yamux_session_free(YamuxSession *session) noexcept nogil  # idempotent; frees all
# The next event from [*cursor, end); advances *cursor. Event kind >= 0 or a YamuxError,
# which every later call returns again. Call until YAMUX_EVENT_NEED_MORE: events may be
# owed although all input is used. Any stream may be released between two calls.
cdef int yamux_session_next(
    YamuxSession *session, uint8_t **cursor, uint8_t *end, YamuxEvent *event
) noexcept nogil
# 0; 1: the last ping is still unanswered and another would say nothing new; -ENOMEM.
cdef int yamux_session_ping(YamuxSession *session, uint32_t value) noexcept nogil
# Let windows grow: `start` is what a quiet one falls back to.
cdef void yamux_session_tune(
    YamuxSession *session, WindowBudget *budget, uint32_t start
) noexcept nogil
# 0, -ENOMEM. Streams the peer opens from now on are refused.
cdef int yamux_session_go_away(YamuxSession *session, uint32_t code) noexcept nogil
# The first stream of a chained walk over all, for teardown; NULL when none is left.
cdef YamuxStream *yamux_session_any_stream(YamuxSession *session) noexcept nogil

# NULL: ids exhausted, GoAway received, YAMUX_UNACKED_MAX reached or no memory. `window` is
# what the peer may send at once, if more than was agreed and the budget has it; 0: no more.
cdef YamuxStream *yamux_stream_open(YamuxSession *session, uint32_t window) noexcept nogil
# Send the ACK; once. `window` as above.
cdef int yamux_stream_accept(YamuxStream *stream, uint32_t window) noexcept nogil
# Encode `size` <= send_window bytes as Data frames. 0, -ENOMEM.
cdef int yamux_stream_send(YamuxStream *stream, const uint8_t *bytes, uint32_t size) noexcept nogil
# Read straight behind a reserved header: at most `size` <= YAMUX_FRAME_PAYLOAD_MAX
# bytes may be written at the returned place, then committed; nothing else may touch
# the output buffers in between. It passes bulk if the stream still may, whatever its size.
# commit(0) abandons the frame. NULL: no memory.
cdef uint8_t *yamux_stream_reserve(YamuxStream *stream, uint32_t size) noexcept nogil
cdef void yamux_stream_commit(YamuxStream *stream, uint32_t size) noexcept nogil
cdef int yamux_stream_finish(YamuxStream *stream) noexcept nogil   # FIN; once, no-op after RST
# The destination accepted `size` bytes: grants credit in quarter-window steps, and lets
# the window grow if it is too small for the link. 0, -ENOMEM.
cdef int yamux_stream_consume(YamuxStream *stream, uint32_t size) noexcept nogil
# Somebody else keeps what was not consumed yet: its credit comes back as well, but proves
# no need of a larger window.
cdef int yamux_stream_settle(YamuxStream *stream) noexcept nogil
# Give the stream back: RST(code) on the wire unless closed both ways or already reset.
# A stream of the peer's that was never accepted is reset in any case but the last.
cdef void yamux_stream_release(YamuxStream *stream, uint32_t code) noexcept nogil

# Size of the whole frames that hold the first `part` of these bytes, which begin with a frame.
cdef uint32_t yamux_frames_size(const uint8_t *bytes, uint32_t size, uint32_t part) noexcept nogil

cdef inline bint yamux_stream_has_bulk(const YamuxStream *stream) noexcept nogil:
    # Bytes of it still wait in session.out.
    return stream.bulk_end > stream.session.bulk_start

cdef inline uint32_t yamux_stream_urgent_size(const YamuxStream *stream) noexcept nogil:
    # How much of what it sends now goes ahead of bulk.
    if stream.burst >= YAMUX_BURST_SMALL or yamux_stream_has_bulk(stream):
        return 0
    return YAMUX_BURST_SMALL - stream.burst

cdef inline void yamux_stream_rest(YamuxStream *stream) noexcept nogil:
    # Its source has nothing more for now: what comes next is a new burst, unless the last
    # one is still here.
    if stream.urgent_end <= stream.session.urgent_start:
        stream.burst = 0

cdef inline bint yamux_stream_is_closed(const YamuxStream *stream) noexcept nogil:
    # Both directions finished, or reset.
    return (stream.flags & YAMUX_STREAM_RESET) != 0 or (
        stream.flags & (YAMUX_STREAM_FIN_SENT | YAMUX_STREAM_FIN_RECEIVED)
    ) == (YAMUX_STREAM_FIN_SENT | YAMUX_STREAM_FIN_RECEIVED)

cdef inline uint32_t yamux_session_payload_max(const YamuxSession *session) noexcept nogil:
    # The largest payload we put in one frame now. The control stream is always there
    # and nearly idle, so with two streams the second has the link to itself.
    return YAMUX_FRAME_PAYLOAD_SHARED if session.stream_count >= 3 else YAMUX_FRAME_PAYLOAD_MAX
