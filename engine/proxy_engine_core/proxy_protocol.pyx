# See proxy_protocol.pxd.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from proxy_engine_core.wire cimport load_be16, store_be16

cdef enum:
    VERSION_2_LOCAL = 0x20
    VERSION_2_PROXY = 0x21
    FAMILY_IPV4 = 0x10
    FAMILY_IPV6 = 0x20
    TRANSPORT_STREAM = 1
    TRANSPORT_DATAGRAM = 2

cdef const uint8_t *SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


cdef uint32_t preamble_encode(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, uint8_t profile
) noexcept nogil:
    memcpy(target, SIGNATURE, 12)
    target[12] = VERSION_2_LOCAL
    target[13] = 0                        # AF_UNSPEC
    return finish(target, PREAMBLE_FIXED_SIZE, tunnel, tunnel_size, profile)


cdef uint32_t finish(
    uint8_t *target, uint32_t place, const uint8_t *tunnel, uint32_t tunnel_size, uint8_t profile
) noexcept nogil:
    # The TLVs behind what stands there, and the length of it all.
    target[place] = PREAMBLE_TLV_TUNNEL
    store_be16(target + place + 1, tunnel_size)
    memcpy(target + place + 3, tunnel, tunnel_size)
    place += 3 + tunnel_size
    if profile:
        target[place] = PREAMBLE_TLV_PROFILE
        store_be16(target + place + 1, 1)
        target[place + 3] = profile
        place += 4
    store_be16(target + 14, place - PREAMBLE_FIXED_SIZE)
    return place


cdef void store_end(uint8_t *target, const ProxyEnd *end, uint32_t size) noexcept nogil:
    # An IPv4 address among IPv6 ones is mapped.
    if end.size == size:
        memcpy(target, end.bytes, size)
        return
    memset(target, 0, 10)
    target[10] = 0xFF
    target[11] = 0xFF
    memcpy(target + 12, end.bytes, 4)


cdef uint32_t encode(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, uint8_t profile,
    const ProxyEnd *visitor, const ProxyEnd *listener, uint8_t transport
) noexcept nogil:
    cdef uint32_t size = 4 if visitor.size == 4 and listener.size == 4 else 16
    cdef uint32_t place = PREAMBLE_FIXED_SIZE
    memcpy(target, SIGNATURE, 12)
    target[12] = VERSION_2_PROXY
    target[13] = (FAMILY_IPV4 if size == 4 else FAMILY_IPV6) | transport
    store_end(target + place, visitor, size)
    store_end(target + place + size, listener, size)
    place += 2 * size
    store_be16(target + place, visitor.port)
    store_be16(target + place + 2, listener.port)
    return finish(target, place + 4, tunnel, tunnel_size, profile)


cdef uint32_t preamble_encode_tcp(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, uint8_t profile,
    const ProxyEnd *visitor, const ProxyEnd *listener
) noexcept nogil:
    if visitor.size == 0 or listener.size == 0:
        return preamble_encode(target, tunnel, tunnel_size, profile)
    return encode(target, tunnel, tunnel_size, profile, visitor, listener, TRANSPORT_STREAM)


cdef uint32_t preamble_encode_udp(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, const ProxyEnd *visitor,
    const ProxyEnd *listener
) noexcept nogil:
    return encode(target, tunnel, tunnel_size, 0, visitor, listener, TRANSPORT_DATAGRAM)


cdef int preamble_decode(const uint8_t *source, uint32_t size, Preamble *preamble) noexcept nogil:
    cdef uint32_t end, place, length
    preamble.tunnel = NULL
    preamble.tunnel_size = 0
    preamble.is_datagram = False
    preamble.profile = 0
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
    preamble.is_datagram = source[13] & 0x0F == TRANSPORT_DATAGRAM
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
        elif source[place] == PREAMBLE_TLV_PROFILE and length == 1:
            preamble.profile = source[place + 3]
        place += 3 + length
    return <int>end


# --- of a load balancer -------------------------------------------------------------------------

cdef int proxy_header_decode(
    const uint8_t *source, uint32_t size, ProxyHeader *header
) noexcept nogil:
    memset(header, 0, sizeof(ProxyHeader))
    if size == 0:
        return 0
    return decode_text(source, size, header) if source[0] == c'P' else decode_binary(
        source, size, header
    )


cdef int decode_binary(const uint8_t *source, uint32_t size, ProxyHeader *header) noexcept nogil:
    cdef Preamble preamble
    cdef int used = preamble_decode(source, size, &preamble)
    if used <= 0 or source[12] == VERSION_2_LOCAL:
        return used
    if source[13] == FAMILY_IPV4 | TRANSPORT_STREAM:
        header.visitor.size = 4
    elif source[13] == FAMILY_IPV6 | TRANSPORT_STREAM:
        header.visitor.size = 16
    else:
        return used                       # UDP, or none named: nothing to learn
    memcpy(header.visitor.bytes, source + PREAMBLE_FIXED_SIZE, header.visitor.size)
    header.visitor.port = load_be16(source + PREAMBLE_FIXED_SIZE + 2 * header.visitor.size)
    return used


cdef int take_port(const uint8_t *text, uint32_t size) noexcept nogil:
    # -1: not one.
    cdef uint32_t index
    cdef int port = 0
    if not 1 <= size <= 5:
        return -1
    for index in range(size):
        if not c'0' <= text[index] <= c'9':
            return -1
        port = 10 * port + text[index] - c'0'
    return port if port <= 65535 else -1


cdef int decode_text(const uint8_t *source, uint32_t size, ProxyHeader *header) noexcept nogil:
    """"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\\r\\n", or "PROXY UNKNOWN" and anything."""
    # Where the CR of the longest line may be, which has room for its LF.
    cdef uint32_t window = size if size < PROXY_LINE_SIZE_MAX else PROXY_LINE_SIZE_MAX - 1
    cdef const uint8_t *end
    cdef const uint8_t *space
    cdef const uint8_t *words[4]
    cdef uint32_t sizes[4]
    cdef const uint8_t *place
    cdef int index, port
    if memcmp(source, b"PROXY ", size if size < 6 else 6) != 0:
        return -1
    end = <const uint8_t *>memchr(source, c'\r', window)
    if end == NULL or end + 1 == source + size:
        return 0 if size < PROXY_LINE_SIZE_MAX else -1
    if end[1] != c'\n':
        return -1
    if end - source >= 13 and memcmp(source + 6, b"UNKNOWN", 7) == 0:
        return <int>(end + 2 - source)
    if end - source < 11 or (
        memcmp(source + 6, b"TCP4 ", 5) != 0 and memcmp(source + 6, b"TCP6 ", 5) != 0
    ):
        return -1
    place = source + 11
    for index in range(4):
        space = <const uint8_t *>memchr(place, c' ', end - place)
        if (space == NULL) != (index == 3):
            return -1
        words[index] = place
        sizes[index] = <uint32_t>((end if space == NULL else space) - place)
        if sizes[index] == 0:
            return -1
        place += sizes[index] + 1
    port = take_port(words[2], sizes[2])
    if port < 0 or take_port(words[3], sizes[3]) < 0:
        return -1
    header.text = words[0]
    header.text_size = sizes[0]
    header.visitor.port = <uint16_t>port
    return <int>(end + 2 - source)
