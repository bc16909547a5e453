# The 12-byte yamux frame header (hashicorp/yamux spec.md):
#   version u8 = 0 | type u8 | flags u16 | stream id u32 | length u32, big-endian.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from proxy_engine_core.wire cimport load_be16, load_be32, store_be16, store_be32


cdef enum:
    YAMUX_HEADER_SIZE = 12

cdef enum YamuxType:
    YAMUX_DATA = 0
    YAMUX_WINDOW_UPDATE = 1
    YAMUX_PING = 2
    YAMUX_GO_AWAY = 3

cdef enum YamuxFlag:
    YAMUX_SYN = 1
    YAMUX_ACK = 2
    YAMUX_FIN = 4
    YAMUX_RST = 8

cdef enum YamuxGoAwayCode:
    YAMUX_GO_AWAY_NORMAL = 0
    YAMUX_GO_AWAY_PROTOCOL_ERROR = 1
    YAMUX_GO_AWAY_INTERNAL_ERROR = 2

cdef struct YamuxHeader:
    uint8_t version
    uint8_t type
    uint16_t flags
    uint32_t stream_id
    uint32_t length


cdef inline void yamux_header_decode(const uint8_t *source, YamuxHeader *header) noexcept nogil:
    header.version = source[0]
    header.type = source[1]
    header.flags = load_be16(source + 2)
    header.stream_id = load_be32(source + 4)
    header.length = load_be32(source + 8)


cdef inline void yamux_header_encode(
    uint8_t *target, uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length
) noexcept nogil:
    target[0] = 0
    target[1] = type
    store_be16(target + 2, flags)
    store_be32(target + 4, stream_id)
    store_be32(target + 8, length)
