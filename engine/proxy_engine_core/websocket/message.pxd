# Whole messages: fragments gathered, compressed ones inflated. Sits on the frame
# reader; a message that lies in one piece in the input is handed on where it lies.
# Pure C inside: no Python object, no fd, no clock.

from libc.stdint cimport uint8_t, uint64_t

from proxy_engine_core.buffer cimport Buffer, BufferPool
from proxy_engine_core.websocket.deflate cimport WsDeflate
from proxy_engine_core.websocket.frame cimport WsEvent, WsReader


cdef enum:
    WS_MESSAGE_SIZE_MAX = 1 << 30         # bytes; the largest limit that may be set

cdef struct WsMessages:
    WsReader frames
    WsDeflate *deflate                    # of this thread; NULL: not agreed on
    Buffer payload                        # gathered so far, as on the wire
    Buffer inflated                       # the last message handed on, if it was compressed
    bint is_streaming                     # runs of uncompressed messages are handed on as they come

# size_max: 1 .. WS_MESSAGE_SIZE_MAX bytes, on the wire and inflated.
cdef void ws_messages_init(
    WsMessages *messages, bint is_server, uint64_t size_max, bint is_streaming,
    BufferPool *pool, WsDeflate *deflate
) noexcept nogil
cdef void ws_messages_free(WsMessages *messages) noexcept nogil           # idempotent
# As ws_reader_next(), but WS_EVENT_DATA is a whole message, plain and checked. Its data
# is good until the next call. May also return WS_ERROR_INTERNAL: no memory.
cdef int ws_messages_next(
    WsMessages *messages, uint8_t **cursor, uint8_t *end, WsEvent *event
) noexcept nogil

# Append one frame with a copy of the payload to `target`; 0 or -ENOMEM. key == NULL: not
# masked. The opcode may carry WS_COMPRESSED.
cdef int ws_frame_write(
    Buffer *target, uint8_t opcode, bint is_final, const uint8_t *payload, size_t size,
    const uint8_t *key
) noexcept nogil
