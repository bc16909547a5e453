# Datagrams on a stream, as a hostile peer may send them. The first byte says how the rest is cut.
#
# Permitted: datagrams of the input, in order, each behind its length; then nothing, or one
# length that is too long. The same comes out however the input is cut, and no memory stays lent.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from input cimport REQUIRE, exact
from proxy_engine_core.buffer cimport BufferPool, buffer_pool_free, buffer_pool_init
from proxy_engine_core.datagram cimport (
    DATAGRAM_SIZE_MAX, DATAGRAM_TOO_LONG, DatagramReader, datagram_next, datagram_reader_free,
    datagram_reader_init,
)
from proxy_engine_core.wire cimport load_be16


cdef uint32_t check(const uint8_t *data, uint32_t size, uint32_t piece) noexcept nogil:
    """The bytes that were datagrams."""
    cdef BufferPool pool
    cdef DatagramReader reader
    cdef uint8_t *copy
    cdef uint8_t *cursor
    cdef uint8_t *payload
    cdef uint32_t place = 0, good = 0, length, part
    cdef int status = 0
    buffer_pool_init(&pool)
    datagram_reader_init(&reader, &pool)
    while place < size and status == 0:
        part = piece if piece < size - place else size - place
        copy = exact(data + place, part)
        cursor = copy
        while True:
            status = datagram_next(&reader, &cursor, copy + part, &payload, &length)
            REQUIRE(copy <= cursor <= copy + part)
            if status != 1:
                break
            REQUIRE(length <= DATAGRAM_SIZE_MAX)
            REQUIRE(load_be16(data + good) == length)
            REQUIRE(good + 2 + length <= place + part)
            REQUIRE(length == 0 or memcmp(payload, data + good + 2, length) == 0)
            good += 2 + length
        REQUIRE(status == 0 or status == DATAGRAM_TOO_LONG)
        REQUIRE(status != 0 or cursor == copy + part)
        free(copy)
        place += part
    if status == DATAGRAM_TOO_LONG:
        REQUIRE(load_be16(data + good) > DATAGRAM_SIZE_MAX)
    datagram_reader_free(&reader)
    REQUIRE(pool.bytes_lent == 0)
    buffer_pool_free(&pool)
    return good


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint32_t good
    if size < 2 or size > 100_000:
        return 0
    good = check(data + 1, <uint32_t>size - 1, <uint32_t>size)
    REQUIRE(check(data + 1, <uint32_t>size - 1, 1 + data[0]) == good)
    REQUIRE(check(data + 1, <uint32_t>size - 1, 1) == good)
    return 0
