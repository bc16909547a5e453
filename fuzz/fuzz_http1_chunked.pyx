# Chunked bodies: a reader must say the same however its input is cut.
#
# Input: one byte that cuts, one with bit 0: extensions are allowed; then the body. Permitted:
# data and then end, more, or one of the two errors; the same data, result and (at the end) bytes
# used from all at once and from pieces. A body that ends, encoded again as one chunk, is read as
# the same data.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from input cimport REQUIRE, Cuts, cuts_init, cuts_next, exact, fence
from proxy_engine_core.http1.chunked cimport (
    CHUNK_DATA, CHUNK_END, CHUNK_NEED_MORE, ChunkReader, ChunkSpan, chunk_reader_init,
    chunk_reader_next, chunk_size_line,
)
from proxy_engine_core.http1.head cimport HEAD_ERROR_BAD_CHUNK, HEAD_ERROR_BAD_TRAILER

cdef struct Outcome:
    uint8_t *body
    size_t body_size
    size_t used
    int result


cdef void read_all(
    Outcome *outcome, const uint8_t *data, size_t size, bint allow_extensions, uint8_t choice
) noexcept nogil:
    cdef ChunkReader reader
    cdef ChunkSpan span
    cdef Cuts cuts
    cdef uint8_t *copy = exact(data, size)
    cdef const uint8_t *piece
    cdef const uint8_t *cursor
    cdef size_t piece_size
    outcome.body = <uint8_t *>malloc(size + 1)
    REQUIRE(outcome.body != NULL)
    outcome.body_size = 0
    outcome.used = 0
    outcome.result = CHUNK_NEED_MORE
    chunk_reader_init(&reader, allow_extensions)
    cuts_init(&cuts, choice)
    while outcome.used < size and outcome.result == CHUNK_NEED_MORE:
        piece_size = cuts_next(&cuts, size - outcome.used)
        fence(copy, outcome.used + piece_size, size)
        piece = copy + outcome.used
        cursor = piece
        while True:
            outcome.result = chunk_reader_next(&reader, &cursor, piece + piece_size, &span)
            REQUIRE(piece <= cursor <= piece + piece_size)
            if outcome.result != CHUNK_DATA:
                break
            REQUIRE(span.size > 0 and span.bytes >= piece and span.bytes + span.size <= cursor)
            memcpy(outcome.body + outcome.body_size, span.bytes, span.size)
            outcome.body_size += span.size
        REQUIRE(outcome.result != CHUNK_NEED_MORE or cursor == piece + piece_size)
        outcome.used += cursor - piece
    fence(copy, size, size)
    free(copy)
    REQUIRE(reader.data_total == outcome.body_size)


cdef void check_again(const Outcome *outcome) noexcept nogil:
    """The data as one chunk is the same data."""
    cdef uint8_t *coded = <uint8_t *>malloc(outcome.body_size + 32)
    cdef uint32_t size = 0
    cdef Outcome again
    REQUIRE(coded != NULL)
    if outcome.body_size:
        size = chunk_size_line(coded, <uint32_t>outcome.body_size)
        REQUIRE(size <= 10)
        memcpy(coded + size, outcome.body, outcome.body_size)
        size += <uint32_t>outcome.body_size
        memcpy(coded + size, b"\r\n", 2)
        size += 2
    memcpy(coded + size, b"0\r\n\r\n", 5)
    size += 5
    read_all(&again, coded, size, False, 0)
    REQUIRE(again.result == CHUNK_END and again.used == size)
    REQUIRE(again.body_size == outcome.body_size)
    REQUIRE(memcmp(again.body, outcome.body, again.body_size) == 0)
    free(again.body)
    free(coded)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef Outcome whole, cut
    if size < 2:
        return 0
    read_all(&whole, data + 2, size - 2, data[1] & 1, 0)
    read_all(&cut, data + 2, size - 2, data[1] & 1, data[0])
    REQUIRE(whole.result in (
        CHUNK_NEED_MORE, CHUNK_END, HEAD_ERROR_BAD_CHUNK, HEAD_ERROR_BAD_TRAILER
    ))
    REQUIRE(cut.result == whole.result)
    REQUIRE(cut.body_size == whole.body_size)
    REQUIRE(memcmp(cut.body, whole.body, whole.body_size) == 0)
    if whole.result == CHUNK_END:
        REQUIRE(cut.used == whole.used)
        check_again(&whole)
    free(whole.body)
    free(cut.body)
    return 0
