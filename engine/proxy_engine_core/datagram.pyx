# See datagram.pxd.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.buffer cimport (
    BufferPool, buffer_append, buffer_consume, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.wire cimport load_be16


cdef void datagram_reader_init(DatagramReader *reader, BufferPool *pool) noexcept nogil:
    buffer_init(&reader.partial, pool, 0)
    reader.used = 0


cdef void datagram_reader_free(DatagramReader *reader) noexcept nogil:
    buffer_free(&reader.partial)
    reader.used = 0


cdef int datagram_next(
    DatagramReader *reader, uint8_t **cursor, uint8_t *end, uint8_t **payload, uint32_t *size
) noexcept nogil:
    cdef size_t left = end - cursor[0]
    cdef uint32_t length
    if reader.used:
        buffer_consume(&reader.partial, reader.used)
        reader.used = 0
    if buffer_size(&reader.partial):
        return complete(reader, cursor, end, payload, size)
    if left >= DATAGRAM_HEADER_SIZE:
        length = load_be16(cursor[0])
        if length > DATAGRAM_SIZE_MAX:
            return DATAGRAM_TOO_LONG
        if left - DATAGRAM_HEADER_SIZE >= length:
            payload[0] = cursor[0] + DATAGRAM_HEADER_SIZE
            size[0] = length
            cursor[0] += DATAGRAM_HEADER_SIZE + length
            return 1
    return keep(reader, cursor, <uint32_t>left)


cdef int keep(DatagramReader *reader, uint8_t **cursor, uint32_t size) noexcept nogil:
    # 0 or DATAGRAM_NO_MEMORY.
    if buffer_append(&reader.partial, cursor[0], size) < 0:
        return DATAGRAM_NO_MEMORY
    cursor[0] += size
    return 0


cdef int complete(
    DatagramReader *reader, uint8_t **cursor, uint8_t *end, uint8_t **payload, uint32_t *size
) noexcept nogil:
    """datagram_next() while the front of one is kept."""
    cdef size_t left = end - cursor[0]
    cdef uint32_t length, missing
    if buffer_size(&reader.partial) == 1 and left:
        if keep(reader, cursor, 1) < 0:
            return DATAGRAM_NO_MEMORY
        left -= 1
    if buffer_size(&reader.partial) < DATAGRAM_HEADER_SIZE:
        return 0
    length = load_be16(buffer_head(&reader.partial))
    if length > DATAGRAM_SIZE_MAX:
        return DATAGRAM_TOO_LONG
    missing = DATAGRAM_HEADER_SIZE + length - buffer_size(&reader.partial)
    if keep(reader, cursor, missing if missing < left else <uint32_t>left) < 0:
        return DATAGRAM_NO_MEMORY
    if missing > left:
        return 0
    payload[0] = buffer_head(&reader.partial) + DATAGRAM_HEADER_SIZE
    size[0] = length
    reader.used = DATAGRAM_HEADER_SIZE + length
    return 1
