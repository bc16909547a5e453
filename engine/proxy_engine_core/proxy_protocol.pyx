# See proxy_protocol.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from proxy_engine_core.wire cimport load_be16, store_be16

cdef enum:
    VERSION_2_LOCAL = 0x20
    VERSION_2_PROXY = 0x21

cdef const uint8_t *SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


cdef uint32_t preamble_encode(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size
) noexcept nogil:
    memcpy(target, SIGNATURE, 12)
    target[12] = VERSION_2_LOCAL
    target[13] = 0                        # AF_UNSPEC
    store_be16(target + 14, 3 + tunnel_size)
    target[16] = PREAMBLE_TLV_TUNNEL
    store_be16(target + 17, tunnel_size)
    memcpy(target + 19, tunnel, tunnel_size)
    return 19 + tunnel_size


cdef int preamble_decode(const uint8_t *source, uint32_t size, Preamble *preamble) noexcept nogil:
    cdef uint32_t end, place, length
    preamble.tunnel = NULL
    preamble.tunnel_size = 0
    if memcmp(source, SIGNATURE, size if size < 12 else 12) != 0:
        return -1
    if size < PREAMBLE_FIXED_SIZE:
        return 0
    if source[12] != VERSION_2_LOCAL and source[12] != VERSION_2_PROXY:
        return -1
    end = PREAMBLE_FIXED_SIZE + load_be16(source + 14)
    if end > PREAMBLE_SIZE_MAX:
        return -1
    if size < end:
        return 0
    place = PREAMBLE_FIXED_SIZE
    if source[13] == 0x11 or source[13] == 0x12:
        place += 12                       # IPv4 addresses and ports
    elif source[13] == 0x21 or source[13] == 0x22:
        place += 36                       # IPv6
    elif source[13] != 0:
        return -1
    if place > end:
        return -1
    while place < end:
        if end - place < 3:
            return -1
        length = load_be16(source + place + 1)
        if end - place - 3 < length:
            return -1
        if source[place] == PREAMBLE_TLV_TUNNEL:
            preamble.tunnel = source + place + 3
            preamble.tunnel_size = length
        place += 3 + length
    return <int>end
