# The WebSocket frame reader: what it says of a stream must not depend on how it came.
#
# Input: one byte that cuts, one of settings (bit 0: a server; bit 1: no text; bit 2: a size
# limit; bit 3: permessage-deflate), then the stream. It is read whole, byte by byte and cut.
# Permitted, and nothing else:
# - the same completed messages and control frames from all three, in the same order;
# - no error, or the same one of protocol, UTF-8 and too big;
# - of the message cut off by the end of the stream, the same bytes; of one cut off by an error,
#   one the beginning of the other: runs before the bad byte are handed on only if they came in
#   an earlier piece.
# A header that is decoded and encoded again has the same bytes.

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from input cimport REQUIRE, Pieces, pieces_free, pieces_init, pieces_next
from proxy_engine_core.websocket.frame cimport (
    WS_CONTROL_SIZE_MAX, WS_ERROR_PROTOCOL, WS_ERROR_TOO_BIG, WS_ERROR_UTF8, WS_EVENT_CLOSE,
    WS_EVENT_DATA, WS_EVENT_NEED_MORE, WS_HEADER_SIZE_MAX, WsEvent, WsHeader, WsReader,
    ws_header_decode, ws_header_encode, ws_header_size, ws_reader_init, ws_reader_next,
)

cdef enum:
    SIZE_MAX = 300                        # bytes of a message, with bit 2
    ITEM_SIZE = 8                         # bytes an item takes in the record, at most, and more

cdef struct Outcome:
    uint8_t *record                       # completed items, one after the other
    size_t record_size
    uint8_t *message                      # what has come of the current message
    size_t message_size
    int error


cdef void note(
    Outcome *outcome, const WsEvent *event, const uint8_t *bytes, size_t size
) noexcept nogil:
    cdef uint8_t *place = outcome.record + outcome.record_size
    place[0] = event.kind
    place[1] = event.opcode if event.kind == WS_EVENT_DATA else 0
    place[2] = event.is_compressed if event.kind == WS_EVENT_DATA else 0
    place[3] = <uint8_t>(event.close_code >> 8) if event.kind == WS_EVENT_CLOSE else 0
    place[4] = <uint8_t>event.close_code if event.kind == WS_EVENT_CLOSE else 0
    place[5] = <uint8_t>size
    place[6] = <uint8_t>(size >> 8)
    place[7] = <uint8_t>(size >> 16)
    if size:
        memcpy(place + ITEM_SIZE, bytes, size)
    outcome.record_size += ITEM_SIZE + size


cdef void read_all(
    Outcome *outcome, const uint8_t *data, size_t size, uint8_t settings, uint8_t choice
) noexcept nogil:
    cdef WsReader reader
    cdef WsEvent event
    cdef Pieces pieces
    cdef uint8_t *piece
    cdef uint8_t *cursor
    cdef uint8_t *end = NULL
    cdef int kind = WS_EVENT_NEED_MORE
    # An item takes at least the two bytes of a frame's header.
    outcome.record = <uint8_t *>malloc(size * (1 + ITEM_SIZE // 2) + 1)
    outcome.message = <uint8_t *>malloc(size + 1)
    REQUIRE(outcome.record != NULL and outcome.message != NULL)
    outcome.record_size = 0
    outcome.message_size = 0
    outcome.error = 0
    ws_reader_init(&reader, settings & 1, not settings & 2, SIZE_MAX if settings & 4 else 0)
    reader.deflate_allowed = (settings & 8) != 0
    pieces_init(&pieces, data, size, choice)
    while kind >= 0 and kind != WS_EVENT_CLOSE:
        piece = pieces_next(&pieces, &end)
        if piece == NULL:
            break
        cursor = piece
        while True:
            kind = ws_reader_next(&reader, &cursor, end, &event)
            REQUIRE(piece <= cursor <= end)
            if kind <= 0:
                break
            REQUIRE(event.kind == kind)
            if kind != WS_EVENT_DATA:
                REQUIRE(event.size <= WS_CONTROL_SIZE_MAX)
                note(outcome, &event, event.data, event.size)
                if kind == WS_EVENT_CLOSE:
                    break
                continue
            if event.size:
                memcpy(outcome.message + outcome.message_size, event.data, event.size)
            outcome.message_size += event.size
            REQUIRE(not settings & 4 or outcome.message_size <= SIZE_MAX)
            if event.is_message_end:
                note(outcome, &event, outcome.message, outcome.message_size)
                outcome.message_size = 0
    pieces_free(&pieces)
    if kind < 0:
        outcome.error = kind


cdef void free_outcome(Outcome *outcome) noexcept nogil:
    free(outcome.record)
    free(outcome.message)


cdef void compare(const Outcome *fine, const Outcome *other) noexcept nogil:
    cdef size_t common = fine.message_size
    REQUIRE(other.error == fine.error)
    REQUIRE(other.record_size == fine.record_size)
    REQUIRE(memcmp(other.record, fine.record, fine.record_size) == 0)
    if other.message_size < common:
        common = other.message_size
    REQUIRE(fine.error or other.message_size == fine.message_size)
    REQUIRE(memcmp(other.message, fine.message, common) == 0)


cdef void check_header(const uint8_t *data, size_t size) noexcept nogil:
    cdef WsHeader header
    cdef uint8_t encoded[WS_HEADER_SIZE_MAX]
    cdef int used = ws_header_decode(data, size, &header)
    REQUIRE(used == WS_ERROR_PROTOCOL or 0 <= used <= <int>size)
    if used <= 0 or header.reserved:
        return
    REQUIRE(used == ws_header_size(header.length, header.is_masked))
    REQUIRE(used == ws_header_encode(
        encoded, header.opcode, header.is_final, header.length,
        header.key if header.is_masked else NULL,
    ))
    REQUIRE(memcmp(encoded, data, <size_t>used) == 0)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef Outcome fine, whole, cut
    if size < 2 or size > 65_000:
        return 0
    check_header(data + 2, size - 2)
    # By threes, if it is long: a byte at a time would take most of the time.
    read_all(&fine, data + 2, size - 2, data[1], 1 if size < 200 else 3)
    read_all(&whole, data + 2, size - 2, data[1], 0)
    read_all(&cut, data + 2, size - 2, data[1], data[0])
    REQUIRE(fine.error in (0, WS_ERROR_PROTOCOL, WS_ERROR_TOO_BIG, WS_ERROR_UTF8))
    compare(&fine, &whole)
    compare(&fine, &cut)
    free_outcome(&fine)
    free_outcome(&whole)
    free_outcome(&cut)
    return 0
