# See send.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport (
    Buffer, buffer_commit, buffer_free, buffer_head, buffer_reserve, buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.yamux.frame cimport (
    YAMUX_DATA, YAMUX_FIN, YAMUX_GO_AWAY, YAMUX_HEADER_SIZE, YAMUX_PING, YAMUX_SYN, YamuxHeader,
    yamux_header_decode, yamux_header_encode,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_STREAM_FIN_SENT, YAMUX_STREAM_RESET, YamuxSession, YamuxStream,
)
from proxy_engine_core.yamux.window cimport window_spend


cdef inline Buffer *stream_out(YamuxStream *stream, uint32_t size) noexcept nogil:
    if yamux_stream_urgent_size(stream) >= size:
        return stream.session.urgent
    return stream.session.out


cdef int yamux_stream_send(YamuxStream *stream, const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef Buffer *out = stream_out(stream, size)
    cdef uint32_t payload_max = yamux_session_payload_max(stream.session)
    cdef uint32_t frame_count, payload, total
    cdef uint8_t *target
    CHECK(not stream.flags & YAMUX_STREAM_FIN_SENT)
    if size == 0 or stream.flags & YAMUX_STREAM_RESET:
        return 0
    # Room for all frames at once: either every byte is taken or none is.
    frame_count = (size - 1) // payload_max + 1
    if size > <uint32_t>0xFFFFFFFF - frame_count * YAMUX_HEADER_SIZE:
        return -ENOMEM
    total = size + frame_count * YAMUX_HEADER_SIZE
    target = buffer_reserve(out, total)
    if target == NULL:
        return -ENOMEM
    buffer_commit(out, total)
    window_spend(stream, size)
    stream_sent(stream, out, total)
    while size != 0:
        payload = payload_max if size > payload_max else size
        yamux_header_encode(target, YAMUX_DATA, 0, stream.id, payload)
        memcpy(target + YAMUX_HEADER_SIZE, bytes, payload)
        target += YAMUX_HEADER_SIZE + payload
        bytes += payload
        size -= payload
    return 0


cdef uint8_t *yamux_stream_reserve(YamuxStream *stream, uint32_t size) noexcept nogil:
    cdef uint8_t *target
    CHECK(size <= YAMUX_FRAME_PAYLOAD_MAX)
    target = buffer_reserve(stream_out(stream, 1), YAMUX_HEADER_SIZE + size)
    if target == NULL:
        return NULL
    return target + YAMUX_HEADER_SIZE


cdef void yamux_stream_commit(YamuxStream *stream, uint32_t size) noexcept nogil:
    cdef Buffer *out = stream_out(stream, 1)
    CHECK(not stream.flags & YAMUX_STREAM_FIN_SENT)
    if size == 0 or stream.flags & YAMUX_STREAM_RESET:
        if buffer_size(out) == 0:
            buffer_free(out)             # an empty buffer owns no memory
        return
    window_spend(stream, size)
    yamux_header_encode(
        buffer_head(out) + buffer_size(out), YAMUX_DATA, 0, stream.id, size
    )
    buffer_commit(out, YAMUX_HEADER_SIZE + size)
    stream_sent(stream, out, YAMUX_HEADER_SIZE + size)


cdef int yamux_stream_finish(YamuxStream *stream) noexcept nogil:
    if stream.flags & (YAMUX_STREAM_FIN_SENT | YAMUX_STREAM_RESET):
        return 0
    # On Data, because some peers miss a FIN that rides on a WindowUpdate.
    if last_frame_write(stream, YAMUX_DATA, YAMUX_FIN, 0) < 0:
        return -ENOMEM
    stream.flags |= YAMUX_STREAM_FIN_SENT
    return 0


cdef int yamux_session_ping(YamuxSession *session, uint32_t value) noexcept nogil:
    if session.ping_outstanding:
        return 1
    if frame_write(session, YAMUX_PING, YAMUX_SYN, 0, value) < 0:
        return -ENOMEM
    session.ping_value = value
    session.ping_outstanding = True
    return 0


cdef int yamux_session_go_away(YamuxSession *session, uint32_t code) noexcept nogil:
    # Behind everything there is: a peer may close as soon as it reads it.
    if header_write(session.out, YAMUX_GO_AWAY, 0, 0, code) < 0:
        return -ENOMEM
    session.bulk_end += YAMUX_HEADER_SIZE
    session.go_away_sent = True
    return 0


cdef int frame_write(
    YamuxSession *session, uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length
) noexcept nogil:
    if header_write(session.urgent, type, flags, stream_id, length) < 0:
        return -ENOMEM
    session.urgent_end += YAMUX_HEADER_SIZE
    return 0


cdef int last_frame_write(
    YamuxStream *stream, uint8_t type, uint16_t flags, uint32_t length
) noexcept nogil:
    cdef YamuxSession *session = stream.session
    if not yamux_stream_has_bulk(stream):
        return frame_write(session, type, flags, stream.id, length)
    if header_write(session.out, type, flags, stream.id, length) < 0:
        return -ENOMEM
    stream_sent(stream, session.out, YAMUX_HEADER_SIZE)
    return 0


cdef int header_write(
    Buffer *out, uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length
) noexcept nogil:
    cdef uint8_t *target = buffer_reserve(out, YAMUX_HEADER_SIZE)
    if target == NULL:
        return -ENOMEM
    yamux_header_encode(target, type, flags, stream_id, length)
    buffer_commit(out, YAMUX_HEADER_SIZE)
    return 0


cdef void stream_sent(YamuxStream *stream, const Buffer *out, uint32_t size) noexcept nogil:
    # `size` bytes of the stream, headers included, are in `out`.
    cdef YamuxSession *session = stream.session
    if stream.burst < YAMUX_BURST_SMALL:
        stream.burst += size
    if out == session.out:
        session.bulk_end += size
        stream.bulk_end = session.bulk_end
    else:
        session.urgent_end += size
        stream.urgent_end = session.urgent_end


cdef uint32_t yamux_frames_size(const uint8_t *bytes, uint32_t size, uint32_t part) noexcept nogil:
    cdef YamuxHeader header
    cdef uint32_t end = 0
    while end < part:
        CHECK(size - end >= YAMUX_HEADER_SIZE)
        yamux_header_decode(bytes + end, &header)
        end += YAMUX_HEADER_SIZE
        if header.type == YAMUX_DATA:
            end += header.length         # we put no RST on Data
    CHECK(end <= size)
    return end
