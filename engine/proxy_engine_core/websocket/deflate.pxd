# permessage-deflate, RFC 7692, always without context takeover: each message is
# compressed by itself. So nothing is remembered for a connection, and all connections
# of a thread share one pair of zlib streams (about 300 KiB, made on first use).

from libc.stdint cimport uint8_t, uint64_t

from proxy_engine_core.buffer cimport Buffer
from proxy_engine_core.websocket.zlib cimport z_stream


cdef enum:
    WS_WINDOW_BITS_MIN = 9        # 8 is in the RFC, but zlib has no raw deflate for it
    WS_WINDOW_BITS_MAX = 15
    WS_DEFLATE_SIZE_MIN = 64      # bytes; shorter messages hardly shrink
    WS_WINDOW_BITS_COUNT = WS_WINDOW_BITS_MAX - WS_WINDOW_BITS_MIN + 1

cdef struct WsDeflate:            # of one thread
    z_stream inflating
    z_stream deflating[WS_WINDOW_BITS_COUNT]      # by window bits; peers rarely ask for few
    bint can_inflate
    bint can_deflate[WS_WINDOW_BITS_COUNT]

cdef void ws_deflate_init(WsDeflate *deflate) noexcept nogil      # takes no memory yet
cdef void ws_deflate_free(WsDeflate *deflate) noexcept nogil      # idempotent
# Append a message to `target`, which is at most size_max bytes; `source` is the whole
# payload as on the wire. 0, or WS_ERROR_TOO_BIG as soon as it would be more,
# WS_ERROR_PROTOCOL (no deflate data, or cut off), WS_ERROR_INTERNAL (no memory).
cdef int ws_inflate(
    WsDeflate *deflate, const uint8_t *source, size_t size, Buffer *target, uint64_t size_max
) noexcept nogil
# Append the compressed payload to `target`: its size, or 0 with nothing appended when it
# would be more than size_max (or there is no memory): send the message as it is then.
cdef size_t ws_deflate(
    WsDeflate *deflate, int window_bits, const uint8_t *source, size_t size, Buffer *target,
    size_t size_max
) noexcept nogil
