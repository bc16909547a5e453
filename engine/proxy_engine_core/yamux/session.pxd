# One yamux session: streams, windows and frames. Pure: bytes in, events out, and
# frames encoded straight into the caller's output buffers.
#
#   frame       the header on the wire
#   session     what a session and a stream are
#   table       the streams by their ids
#   window      credit, and how much of it
#   send        frames out, in order
#   stream      its life: open, accept, consume, release
#   receive     frames in, as events
#
# Each uses those above it.
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

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer


cdef enum:
    YAMUX_WINDOW_INITIAL = 256 * 1024          # bytes; fixed by the spec for strangers

# Reset codes carried in the length of an RST frame; stock peers ignore them.
cdef enum YamuxResetCode:
    YAMUX_RESET_CANCEL = 0
    YAMUX_RESET_REFUSED = 1          # the target refused; nothing was delivered
    YAMUX_RESET_UNREACHABLE = 2      # no route to the target, or its name has no address
    YAMUX_RESET_TIMEOUT = 3          # the target did not answer the connect in time
    YAMUX_RESET_UNKNOWN_TUNNEL = 4   # the preamble names no tunnel of this agent
    YAMUX_RESET_TARGET_LOST = 5      # the target's connection broke after it was open
    YAMUX_RESET_PROTOCOL = 6         # bad preamble or data

cdef enum YamuxError:                # from yamux_session_next; answer GoAway(1)
    YAMUX_ERROR_VERSION = -1
    YAMUX_ERROR_TYPE = -2
    YAMUX_ERROR_STREAM_ID = -3       # SYN on a live id, wrong parity, id 0
    YAMUX_ERROR_WINDOW = -4          # the peer overran a window, or grew ours past 2^32-1
    YAMUX_ERROR_FLAGS = -5           # an ACK twice, or never asked for
    YAMUX_ERROR_PING = -6            # a pong nobody asked for
    YAMUX_ERROR_MEMORY = -7

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
    bint is_fixed                    # its window never grows

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
# Let windows grow: `start` is what a quiet one falls back to.
cdef void yamux_session_tune(
    YamuxSession *session, WindowBudget *budget, uint32_t start
) noexcept nogil

cdef inline bint yamux_stream_is_closed(const YamuxStream *stream) noexcept nogil:
    # Both directions finished, or reset.
    return (stream.flags & YAMUX_STREAM_RESET) != 0 or (
        stream.flags & (YAMUX_STREAM_FIN_SENT | YAMUX_STREAM_FIN_RECEIVED)
    ) == (YAMUX_STREAM_FIN_SENT | YAMUX_STREAM_FIN_RECEIVED)
