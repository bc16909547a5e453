# The chunked coding (RFC 9112 section 7.1) as a strict streaming reader. It serves
# as validator (bytes pass through unchanged) and as decoder (spans of data).

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    CHUNK_EXTENSION_SIZE_MAX = 4096       # bytes a message; responses only
    CHUNK_TRAILER_SIZE_MAX = 8192         # bytes a message
    CHUNK_NAME_SIZE_MAX = 24              # bytes of a trailer's name kept for comparison

cdef enum ChunkResult:                    # errors are HeadError values (negative)
    CHUNK_NEED_MORE = 0                   # all input used, body not finished
    CHUNK_DATA                            # a span of decoded data
    CHUNK_END                             # the body, trailers included, is complete

cdef struct ChunkReader:
    uint64_t remaining                    # data bytes of the current chunk still to come
    uint64_t data_total                   # decoded bytes so far
    uint32_t extension_size
    uint32_t trailer_size
    uint8_t state
    uint8_t digits
    bint allow_extensions                 # False for requests: refused with 400
    uint8_t name_size                     # of the trailer being read; MAX + 1: longer
    uint8_t name[CHUNK_NAME_SIZE_MAX + 2]  # a space, the name, room for one space

cdef struct ChunkSpan:
    const uint8_t *bytes
    uint32_t size

cdef void chunk_reader_init(ChunkReader *reader, bint allow_extensions) noexcept nogil
# CRLF line ends only; 1..13 hex digits; trailers are validated as fields and may not
# name framing, routing or authentication fields (RFC 9110 section 6.5.1).
# Advances *cursor past what was used: after CHUNK_END it points at the first byte
# behind the body. Returns a ChunkResult or HEAD_ERROR_BAD_CHUNK / _BAD_TRAILER.
cdef int chunk_reader_next(
    ChunkReader *reader, const uint8_t **cursor, const uint8_t *end, ChunkSpan *span
) noexcept nogil
# Write the chunk-size line for `size` > 0 bytes of data ("1f4\r\n"); at most 10 bytes.
cdef uint32_t chunk_size_line(uint8_t *target, uint32_t size) noexcept nogil
