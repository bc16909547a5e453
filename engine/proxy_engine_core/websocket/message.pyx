# See message.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport (
    Buffer, buffer_append, buffer_commit, buffer_free, buffer_head, buffer_init, buffer_reserve,
    buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.simd cimport simd_mask, simd_utf8
from proxy_engine_core.websocket.deflate cimport WsDeflate, ws_inflate
from proxy_engine_core.websocket.frame cimport (
    WS_ERROR_INTERNAL, WS_ERROR_UTF8, WS_EVENT_DATA, WS_EVENT_NEED_MORE,
    WS_HEADER_SIZE_MAX, WS_TEXT, WsEvent, ws_header_encode, ws_reader_init, ws_reader_next,
)


cdef void ws_messages_init(
    WsMessages *messages, bint is_server, uint64_t size_max, bint is_streaming,
    BufferPool *pool, WsDeflate *deflate
) noexcept nogil:
    CHECK(1 <= size_max <= WS_MESSAGE_SIZE_MAX)
    ws_reader_init(&messages.frames, is_server, True, size_max)
    messages.frames.deflate_allowed = deflate != NULL
    messages.deflate = deflate
    messages.is_streaming = is_streaming
    buffer_init(&messages.payload, pool, 0)
    buffer_init(&messages.inflated, pool, 0)


cdef void ws_messages_free(WsMessages *messages) noexcept nogil:
    buffer_free(&messages.payload)
    buffer_free(&messages.inflated)


cdef int inflate_message(
    WsMessages *messages, const uint8_t *payload, size_t size, WsEvent *event
) noexcept nogil:
    cdef uint32_t utf8_state = 0
    cdef int error = ws_inflate(
        messages.deflate, payload, size, &messages.inflated, messages.frames.message_size_max
    )
    if error < 0:
        return error
    event.size = buffer_size(&messages.inflated)
    if event.size:
        event.data = buffer_head(&messages.inflated)
    if event.opcode == WS_TEXT:
        if not simd_utf8(&utf8_state, event.data, event.size) or utf8_state != 0:
            return WS_ERROR_UTF8
    return WS_EVENT_DATA


cdef int ws_messages_next(
    WsMessages *messages, uint8_t **cursor, uint8_t *end, WsEvent *event
) noexcept nogil:
    cdef int kind
    # What the last call handed on. A message that is still being gathered stays.
    if messages.inflated.capacity:
        buffer_free(&messages.inflated)
    if messages.payload.capacity and messages.frames.message_opcode == 0:
        buffer_free(&messages.payload)
    while True:
        kind = ws_reader_next(&messages.frames, cursor, end, event)
        if kind != WS_EVENT_DATA:
            return kind
        if not event.is_compressed and (
            messages.is_streaming
            or (event.is_message_end and buffer_size(&messages.payload) == 0)
        ):
            return WS_EVENT_DATA
        if event.is_message_end and buffer_size(&messages.payload) == 0:
            return inflate_message(messages, event.data, event.size, event)
        if event.size and buffer_append(
            &messages.payload, event.data, <uint32_t>event.size
        ) < 0:
            return WS_ERROR_INTERNAL
        if event.is_message_end:
            if buffer_size(&messages.payload):
                event.data = buffer_head(&messages.payload)
                event.size = buffer_size(&messages.payload)
            if event.is_compressed:
                return inflate_message(messages, event.data, event.size, event)
            return WS_EVENT_DATA
        if cursor[0] == end:
            return WS_EVENT_NEED_MORE


cdef int ws_frame_write(
    Buffer *target, uint8_t opcode, bint is_final, const uint8_t *payload, size_t size,
    const uint8_t *key
) noexcept nogil:
    cdef uint8_t *place
    cdef int header_size
    if size > WS_MESSAGE_SIZE_MAX:
        return -ENOMEM
    place = buffer_reserve(target, WS_HEADER_SIZE_MAX + <uint32_t>size)
    if place == NULL:
        return -ENOMEM
    header_size = ws_header_encode(place, opcode, is_final, size, key)
    if size:
        memcpy(place + header_size, payload, size)
        if key != NULL:
            simd_mask(place + header_size, size, key, 0)
    buffer_commit(target, header_size + <uint32_t>size)
    return 0
