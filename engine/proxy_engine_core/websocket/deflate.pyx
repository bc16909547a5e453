# See deflate.pxd. Section numbers are those of RFC 7692.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from proxy_engine_core.buffer cimport (
    Buffer, buffer_commit, buffer_free, buffer_head, buffer_reserve, buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.websocket.frame cimport (
    WS_ERROR_INTERNAL, WS_ERROR_PROTOCOL, WS_ERROR_TOO_BIG,
)
from proxy_engine_core.websocket.zlib cimport (
    Z_BUF_ERROR, Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_MEM_ERROR, Z_OK, Z_STREAM_END, Z_SYNC_FLUSH,
    deflate, deflateEnd, deflateInit2, deflateReset, inflate, inflateEnd,
    inflateInit2, inflateReset, inflateSetDictionary, z_stream,
)


cdef enum:
    LEVEL = 1                     # of 9: a third of the CPU of 6 for a few percent more bytes
    MEMORY_LEVEL = 8              # of 9: 128 KiB of hash tables; zlib's own default
    TAIL_SIZE = 4                 # of the flush marker, which is not sent (7.2.1)
    WINDOW_SIZE = 32 * 1024       # how far back deflate data can refer
    INFLATE_STEP_MIN = 4096       # bytes of room for each call of inflate()
    INFLATE_STEP_MAX = 64 * 1024
    AT_BLOCK_END = 128            # of data_type: inflate() stands between two blocks
    MESSAGE_SIZE_MAX = 1 << 30    # zlib and Buffer count in 32 bits

cdef const uint8_t *TAIL = b"\x00\x00\xff\xff"


cdef void ws_deflate_init(WsDeflate *shared) noexcept nogil:
    memset(shared, 0, sizeof(WsDeflate))


cdef void ws_deflate_free(WsDeflate *shared) noexcept nogil:
    cdef int index
    if shared.can_inflate:
        inflateEnd(&shared.inflating)
    for index in range(WS_WINDOW_BITS_COUNT):
        if shared.can_deflate[index]:
            deflateEnd(&shared.deflating[index])
    ws_deflate_init(shared)


# ---- Inflating

cdef int inflate_step(z_stream *stream, Buffer *target, uint64_t size_max) noexcept nogil:
    # One call of inflate(): Z_OK, Z_STREAM_END, Z_BUF_ERROR (nothing to do) or a WsError.
    # Twice the input is a fair guess; one byte more than allowed tells what is too big.
    cdef uint64_t room = min(max(<uint64_t>stream.avail_in * 2, INFLATE_STEP_MIN), INFLATE_STEP_MAX)
    cdef uint8_t *place
    cdef int code
    room = min(room, size_max - buffer_size(target) + 1)
    place = buffer_reserve(target, <uint32_t>room)
    if place == NULL:
        return WS_ERROR_INTERNAL
    stream.next_out = place
    stream.avail_out = <uint32_t>room
    code = inflate(stream, Z_SYNC_FLUSH)
    buffer_commit(target, <uint32_t>(room - stream.avail_out))
    if code == Z_MEM_ERROR:
        return WS_ERROR_INTERNAL
    if code != Z_OK and code != Z_STREAM_END and code != Z_BUF_ERROR:
        return WS_ERROR_PROTOCOL
    if buffer_size(target) > size_max:
        return WS_ERROR_TOO_BIG
    return code


cdef int inflate_part(
    z_stream *stream, const uint8_t *source, size_t size, Buffer *target, uint64_t size_max
) noexcept nogil:
    # Use all of `source`. 1: it ends with a last block; else 0, or a WsError.
    cdef int code
    cdef uint32_t window
    stream.next_in = source
    stream.avail_in = <uint32_t>size
    while True:
        code = inflate_step(stream, target, size_max)
        if code < 0 and code != Z_BUF_ERROR:
            return code
        if code == Z_STREAM_END:
            if stream.avail_in == 0:
                return 1
            # A last block need not be the last (7.2.3.5); what follows may refer to what
            # came before it.
            if inflateReset(stream) != Z_OK:
                return WS_ERROR_INTERNAL
            window = min(buffer_size(target), <uint32_t>WINDOW_SIZE)
            if window and inflateSetDictionary(
                stream, buffer_head(target) + buffer_size(target) - window, window
            ) != Z_OK:
                return WS_ERROR_INTERNAL
        elif stream.avail_out != 0:
            return 0                      # all input used, all output given


cdef int ws_inflate(
    WsDeflate *shared, const uint8_t *source, size_t size, Buffer *target, uint64_t size_max
) noexcept nogil:
    cdef z_stream *stream = &shared.inflating
    cdef int code
    CHECK(buffer_size(target) == 0 and size_max <= MESSAGE_SIZE_MAX)
    if size == 0:
        return 0            # not what 7.2.3.6 says, but what zlib users send for no bytes
    if size > MESSAGE_SIZE_MAX:
        return WS_ERROR_TOO_BIG
    if not shared.can_inflate:
        # The largest window reads what any smaller one wrote.
        if inflateInit2(stream, -WS_WINDOW_BITS_MAX) != Z_OK:
            return WS_ERROR_INTERNAL
        shared.can_inflate = True
    elif inflateReset(stream) != Z_OK:
        return WS_ERROR_INTERNAL
    code = inflate_part(stream, source, size, target, size_max)
    if code == 0:
        code = inflate_part(stream, TAIL, TAIL_SIZE, target, size_max)
        if code == 1 or (code == 0 and not stream.data_type & AT_BLOCK_END):
            code = WS_ERROR_PROTOCOL      # the payload ended in the middle of a block
    if code < 0:
        buffer_free(target)
        return code
    return 0


# ---- Deflating

cdef z_stream *deflate_stream(WsDeflate *shared, int window_bits) noexcept nogil:
    # Ready for a new message; NULL: no memory.
    cdef int index = window_bits - WS_WINDOW_BITS_MIN
    cdef z_stream *stream = &shared.deflating[index]
    CHECK(0 <= index < WS_WINDOW_BITS_COUNT)
    if shared.can_deflate[index]:
        return stream if deflateReset(stream) == Z_OK else NULL
    if deflateInit2(
        stream, LEVEL, Z_DEFLATED, -window_bits, MEMORY_LEVEL, Z_DEFAULT_STRATEGY
    ) != Z_OK:
        return NULL
    shared.can_deflate[index] = True
    return stream


cdef size_t ws_deflate(
    WsDeflate *shared, int window_bits, const uint8_t *source, size_t size, Buffer *target,
    size_t size_max
) noexcept nogil:
    # One byte more than is allowed: running out of room then says that it does not fit.
    cdef size_t room = size_max + TAIL_SIZE + 1
    cdef z_stream *stream
    cdef uint8_t *place
    if size > MESSAGE_SIZE_MAX or room > 2 * <size_t>MESSAGE_SIZE_MAX:
        return 0
    stream = deflate_stream(shared, window_bits)
    if stream == NULL:
        return 0
    place = buffer_reserve(target, <uint32_t>room)
    if place == NULL:
        return 0
    stream.next_in = source
    stream.avail_in = <uint32_t>size
    stream.next_out = place
    stream.avail_out = <uint32_t>room
    if deflate(stream, Z_SYNC_FLUSH) != Z_OK or stream.avail_out == 0:
        if buffer_size(target) == 0:
            buffer_free(target)
        return 0
    room -= stream.avail_out + TAIL_SIZE
    buffer_commit(target, <uint32_t>room)
    return room
