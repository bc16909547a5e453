# The preamble of a stream (PROXY protocol v2), as a hostile server may send it, and what a load
# balancer puts in front of a connection (version 1 or 2).
#
# Permitted: more is needed (0), refused (-1), or a size within the input, and then the same for
# every longer input and "more" for every shorter one. A tunnel is a part of the header. What we
# encode is decoded as it was.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from input cimport REQUIRE, exact
from proxy_engine_core.proxy_protocol cimport (
    PREAMBLE_FIXED_SIZE, PREAMBLE_HTTP_SIZE_MAX, PREAMBLE_SIZE_MAX, Preamble, ProxyHeader,
    preamble_decode, preamble_encode, proxy_header_decode,
)


cdef void check_encode(const uint8_t *name, uint32_t size) noexcept nogil:
    cdef uint8_t header[PREAMBLE_HTTP_SIZE_MAX]
    cdef Preamble preamble
    cdef uint32_t used = preamble_encode(header, name, size, name[0])
    REQUIRE(used <= sizeof(header))
    REQUIRE(preamble_decode(header, used, &preamble) == <int>used)
    REQUIRE(preamble.profile == name[0])
    REQUIRE(preamble.tunnel_size == size and memcmp(preamble.tunnel, name, size) == 0)


cdef void check_proxy_header(const uint8_t *data, uint32_t size) noexcept nogil:
    cdef ProxyHeader header
    cdef uint8_t *copy = exact(data, size)
    cdef uint32_t shorter
    cdef int used = proxy_header_decode(copy, size, &header)
    REQUIRE(-1 <= used <= <int>size)
    REQUIRE(header.visitor.size in (0, 4, 16))
    if header.text != NULL:
        REQUIRE(header.text > copy and header.text + header.text_size < copy + size)
    for shorter in range(1, <uint32_t>used if used > 0 else 0):
        REQUIRE(proxy_header_decode(copy, shorter, &header) == 0)
    free(copy)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef Preamble preamble, other
    cdef uint8_t *copy
    cdef uint32_t shorter
    cdef int used
    if size == 0 or size > 4096:
        return 0
    if size <= 63:
        check_encode(data, <uint32_t>size)
    check_proxy_header(data, <uint32_t>size)
    used = preamble_decode(data, <uint32_t>size, &preamble)
    REQUIRE(-1 <= used <= PREAMBLE_SIZE_MAX and used <= <int>size)
    if used > 0 and preamble.tunnel != NULL:
        REQUIRE(preamble.tunnel >= data + PREAMBLE_FIXED_SIZE)
        REQUIRE(preamble.tunnel + preamble.tunnel_size <= data + used)
    if used <= 0:
        return 0
    for shorter in range(1, <uint32_t>used + 1):
        copy = exact(data, shorter)
        REQUIRE(
            preamble_decode(copy, shorter, &other) == (used if <int>shorter == used else 0)
        )
        free(copy)
    return 0
