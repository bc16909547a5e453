# Datagrams on a stream: each behind its length. Pure.
#
#   +---------------------+-----------------------+
#   | length (16 bits, BE)| length bytes          |   0 to 65,507: an empty datagram is one, too
#   +---------------------+-----------------------+

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.buffer cimport Buffer, BufferPool
from proxy_engine_core.wire cimport store_be16


cdef enum:
    DATAGRAM_SIZE_MAX = 65_507            # bytes: what fits an IPv4 packet
    DATAGRAM_HEADER_SIZE = 2
    DATAGRAM_TOO_LONG = -1
    DATAGRAM_NO_MEMORY = -2

cdef struct DatagramReader:
    Buffer partial                        # a datagram cut by the end of a frame, with its length
    uint32_t used                         # bytes of it that were given out

cdef void datagram_reader_init(DatagramReader *reader, BufferPool *pool) noexcept nogil
cdef void datagram_reader_free(DatagramReader *reader) noexcept nogil       # idempotent
# The next datagram of [*cursor, end), advancing *cursor: 1; 0: no whole one is left, what there
# is of it is kept; or one of the errors above, for good. *payload is valid until the next call,
# or as long as the input if reader.used is 0.
cdef int datagram_next(
    DatagramReader *reader, uint8_t **cursor, uint8_t *end, uint8_t **payload, uint32_t *size
) noexcept nogil

cdef inline uint8_t *datagram_header(uint8_t *target, uint32_t size) noexcept nogil:
    # Where the payload goes.
    store_be16(target, <unsigned short>size)
    return target + DATAGRAM_HEADER_SIZE
