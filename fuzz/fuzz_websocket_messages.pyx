# Whole WebSocket messages: gathered and inflated, or written and read back.
#
# Input: one byte that cuts, one of settings (bit 0: a server; bit 1: permessage-deflate; bit 2: a
# small size limit; bit 3: runs are handed on as they come; bit 4: the rest is not a stream but
# the payload of a binary message, which is written, read back and must be the same), then the
# rest. Permitted: the same messages however the stream was cut, no error or the same one, and
# every buffer given back.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from input cimport REQUIRE, Pieces, pieces_free, pieces_init, pieces_next
from proxy_engine_core.buffer cimport (
    Buffer, BufferPool, buffer_free, buffer_head, buffer_init, buffer_pool_free, buffer_pool_init,
    buffer_size,
)
from proxy_engine_core.websocket.deflate cimport WsDeflate, ws_deflate, ws_deflate_init
from proxy_engine_core.websocket.frame cimport (
    WS_BINARY, WS_COMPRESSED, WS_EVENT_CLOSE, WS_EVENT_DATA, WS_EVENT_NEED_MORE, WsEvent,
)
from proxy_engine_core.websocket.message cimport (
    WsMessages, ws_frame_write, ws_messages_free, ws_messages_init, ws_messages_next,
)

cdef enum:
    SIZE_MAX = 4096                       # bytes of a message
    SMALL_SIZE_MAX = 200                  # ... with bit 2
    SEEN_SIZE_MAX = 64 * 1024             # bytes of output that are compared

cdef WsDeflate deflate                    # of this thread, as in an engine
ws_deflate_init(&deflate)

cdef struct Outcome:
    uint8_t *seen
    size_t size
    uint32_t message_count
    int error


cdef void read_all(
    Outcome *outcome, const uint8_t *data, size_t size, uint8_t settings, uint8_t choice
) noexcept nogil:
    cdef BufferPool pool
    cdef WsMessages messages
    cdef WsEvent event
    cdef Pieces pieces
    cdef uint8_t *piece
    cdef uint8_t *cursor
    cdef uint8_t *end = NULL
    cdef int kind = WS_EVENT_NEED_MORE
    cdef uint32_t size_max = SMALL_SIZE_MAX if settings & 4 else SIZE_MAX
    outcome.seen = <uint8_t *>malloc(SEEN_SIZE_MAX)
    REQUIRE(outcome.seen != NULL)
    outcome.size = 0
    outcome.message_count = 0
    buffer_pool_init(&pool)
    ws_messages_init(
        &messages, settings & 1, size_max, (settings & 8) != 0, &pool,
        &deflate if settings & 2 else NULL,
    )
    pieces_init(&pieces, data, size, choice)
    while kind >= 0 and kind != WS_EVENT_CLOSE:
        piece = pieces_next(&pieces, &end)
        if piece == NULL:
            break
        cursor = piece
        while True:
            kind = ws_messages_next(&messages, &cursor, end, &event)
            if kind <= 0:
                break
            if kind == WS_EVENT_DATA:
                REQUIRE(event.size <= size_max)
                outcome.message_count += event.is_message_end
            if event.size and outcome.size + event.size <= SEEN_SIZE_MAX:
                memcpy(outcome.seen + outcome.size, event.data, event.size)
                outcome.size += event.size
            if kind == WS_EVENT_CLOSE:
                break
    pieces_free(&pieces)
    outcome.error = kind if kind < 0 else 0
    ws_messages_free(&messages)
    REQUIRE(pool.bytes_lent == 0)
    buffer_pool_free(&pool)


cdef void check_stream(
    const uint8_t *data, size_t size, uint8_t settings, uint8_t choice
) noexcept nogil:
    cdef Outcome whole, cut
    cdef size_t common
    read_all(&whole, data, size, settings, 0)
    read_all(&cut, data, size, settings, choice)
    REQUIRE(whole.error == cut.error)
    REQUIRE(whole.message_count == cut.message_count)
    # Runs before a bad byte are handed on only if they came in an earlier piece.
    common = whole.size if whole.size < cut.size else cut.size
    REQUIRE(whole.error or whole.size == cut.size)
    REQUIRE(memcmp(whole.seen, cut.seen, common) == 0)
    free(whole.seen)
    free(cut.seen)


cdef void check_write(
    const uint8_t *data, size_t size, uint8_t settings, uint8_t choice
) noexcept nogil:
    cdef BufferPool pool
    cdef Buffer target, scratch
    cdef Outcome outcome
    cdef uint8_t[4] key = [1, 2, 3, 4]
    cdef uint8_t opcode = WS_BINARY
    cdef const uint8_t *payload = data
    cdef size_t payload_size = size
    if size > SMALL_SIZE_MAX and settings & 4 or size > SIZE_MAX:
        return
    buffer_pool_init(&pool)
    buffer_init(&target, &pool, 0)
    buffer_init(&scratch, &pool, 0)
    if settings & 2 and size and ws_deflate(
        &deflate, 9 + choice % 7, data, size, &scratch, size - 1
    ):
        REQUIRE(buffer_size(&scratch) < size)
        opcode = WS_BINARY | WS_COMPRESSED
        payload = buffer_head(&scratch)
        payload_size = buffer_size(&scratch)
    REQUIRE(ws_frame_write(
        &target, opcode, True, payload, payload_size, key if settings & 1 else NULL
    ) == 0)
    read_all(&outcome, buffer_head(&target), buffer_size(&target), settings, choice)
    REQUIRE(outcome.error == 0 and outcome.message_count == 1 and outcome.size == size)
    REQUIRE(memcmp(outcome.seen, data, size) == 0)
    free(outcome.seen)
    buffer_free(&target)
    buffer_free(&scratch)
    REQUIRE(pool.bytes_lent == 0)
    buffer_pool_free(&pool)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    if size < 2:
        return 0
    if data[1] & 16:
        check_write(data + 2, size - 2, data[1], data[0])
    else:
        check_stream(data + 2, size - 2, data[1], data[0])
    return 0
