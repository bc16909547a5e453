# Frames out.
#
# Output goes to two buffers, and `urgent` goes first: control frames, and the first
# YAMUX_BURST_SMALL bytes a stream sends after a rest, so small requests and answers
# pass bulk. All else goes to `out`, and so does what a stream sends while it still has
# bytes there: each stream's data, FIN and RST stay in order.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from proxy_engine_core.yamux.session cimport YamuxSession, YamuxStream


cdef enum:
    YAMUX_FRAME_PAYLOAD_MAX = 64 * 1024        # bytes we put in one frame: a lone stream
    YAMUX_FRAME_PAYLOAD_SHARED = 16 * 1024     # ... when others are active too
    YAMUX_BURST_SMALL = 16 * 1024              # bytes a rested stream sends ahead of bulk

# Encode `size` <= send_window bytes as Data frames. 0, -ENOMEM.
cdef int yamux_stream_send(YamuxStream *stream, const uint8_t *bytes, uint32_t size) noexcept nogil
# Read straight behind a reserved header: at most `size` <= YAMUX_FRAME_PAYLOAD_MAX
# bytes may be written at the returned place, then committed; nothing else may touch
# the output buffers in between. It passes bulk if the stream still may, whatever its size.
# commit(0) abandons the frame. NULL: no memory.
cdef uint8_t *yamux_stream_reserve(YamuxStream *stream, uint32_t size) noexcept nogil
cdef void yamux_stream_commit(YamuxStream *stream, uint32_t size) noexcept nogil
cdef int yamux_stream_finish(YamuxStream *stream) noexcept nogil   # FIN; once, no-op after RST
# 0; 1: the last ping is still unanswered and another would say nothing new; -ENOMEM.
cdef int yamux_session_ping(YamuxSession *session, uint32_t value) noexcept nogil
# 0, -ENOMEM. Streams the peer opens from now on are refused.
cdef int yamux_session_go_away(YamuxSession *session, uint32_t code) noexcept nogil
# Size of the whole frames that hold the first `part` of these bytes, which begin with a frame.
cdef uint32_t yamux_frames_size(const uint8_t *bytes, uint32_t size, uint32_t part) noexcept nogil

# Of this package: a frame that is all header, and may pass data or stays behind the
# stream's (FIN, RST). 0, -ENOMEM.
cdef int frame_write(
    YamuxSession *session, uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length
) noexcept nogil
cdef int last_frame_write(
    YamuxStream *stream, uint8_t type, uint16_t flags, uint32_t length
) noexcept nogil

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

cdef inline uint32_t yamux_session_payload_max(const YamuxSession *session) noexcept nogil:
    # The largest payload we put in one frame now. The control stream is always there
    # and nearly idle, so with two streams the second has the link to itself.
    return YAMUX_FRAME_PAYLOAD_SHARED if session.stream_count >= 3 else YAMUX_FRAME_PAYLOAD_MAX
