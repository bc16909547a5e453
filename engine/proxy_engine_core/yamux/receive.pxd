# Frames in.
#
# Reading: a frame is taken in when its 12 header bytes are there (header_take),
# checked and applied at once (stream_frame_take), and then owes its events in this
# order, one per call of yamux_session_next (frame_event_take):
#
#   OPEN -> ACK -> WINDOW -> DATA ... DATA -> RESET | FIN
#
# What is still owed is in payload_stream, payload_flags and payload_remaining, so a
# frame may be cut at any byte and a stream may be released in the middle of one.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.yamux.session cimport YamuxSession, YamuxStream


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

cdef struct YamuxEvent:
    YamuxStream *stream
    uint8_t *data
    size_t size
    uint32_t code

# The next event from [*cursor, end); advances *cursor. Event kind >= 0 or a YamuxError,
# which every later call returns again. Call until YAMUX_EVENT_NEED_MORE: events may be
# owed although all input is used. Any stream may be released between two calls.
cdef int yamux_session_next(
    YamuxSession *session, uint8_t **cursor, uint8_t *end, YamuxEvent *event
) noexcept nogil
