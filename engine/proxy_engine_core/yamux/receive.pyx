# See receive.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from proxy_engine_core.yamux.frame cimport (
    YAMUX_ACK, YAMUX_DATA, YAMUX_FIN, YAMUX_GO_AWAY, YAMUX_HEADER_SIZE, YAMUX_PING, YAMUX_RST,
    YAMUX_SYN, YAMUX_WINDOW_UPDATE, YamuxHeader, yamux_header_decode,
)
from proxy_engine_core.yamux.send cimport frame_write
from proxy_engine_core.yamux.session cimport (
    YAMUX_ERROR_FLAGS, YAMUX_ERROR_MEMORY, YAMUX_ERROR_PING, YAMUX_ERROR_STREAM_ID,
    YAMUX_ERROR_TYPE, YAMUX_ERROR_VERSION, YAMUX_ERROR_WINDOW, YAMUX_RESET_REFUSED,
    YAMUX_STREAM_ACK_RECEIVED, YAMUX_STREAM_FIN_RECEIVED, YAMUX_STREAM_RESET,
    YAMUX_STREAM_SYN_SENT, YamuxSession, YamuxStream,
)
from proxy_engine_core.yamux.stream cimport stream_create, stream_destroy, stream_unacked_clear
from proxy_engine_core.yamux.table cimport table_find
from proxy_engine_core.yamux.window cimport window_announce, window_deliver, window_grow


cdef enum:
    FLAGS_ON_WIRE = YAMUX_SYN | YAMUX_ACK | YAMUX_FIN | YAMUX_RST  # others are ignored
    FLAG_WINDOW_GREW = 1 << 16                                     # ours: WINDOW is owed


cdef int yamux_session_next(
    YamuxSession *session, uint8_t **cursor, uint8_t *end, YamuxEvent *event
) noexcept nogil:
    cdef YamuxHeader header
    cdef int kind
    memset(event, 0, sizeof(YamuxEvent))
    while session.error == 0:
        kind = frame_event_take(session, cursor, end, event)
        if kind != YAMUX_EVENT_NEED_MORE:
            return kind
        if session.payload_remaining != 0 or not header_take(session, cursor, end, &header):
            return YAMUX_EVENT_NEED_MORE
        kind = frame_take(session, &header, event)
        if kind < 0:
            session.error = kind
        elif kind != YAMUX_EVENT_NEED_MORE:
            return kind
    return session.error


cdef bint header_take(
    YamuxSession *session, uint8_t **cursor, uint8_t *end, YamuxHeader *header
) noexcept nogil:
    # True: a whole header was read. False: it is not all there; what is, is kept.
    cdef size_t size = <size_t>(end - cursor[0])
    cdef size_t missing = <size_t>(YAMUX_HEADER_SIZE - session.partial_size)
    if session.partial_size == 0 and size >= YAMUX_HEADER_SIZE:
        yamux_header_decode(cursor[0], header)
        cursor[0] += YAMUX_HEADER_SIZE
        return True
    if size == 0:
        return False
    if size > missing:
        size = missing
    memcpy(session.partial + session.partial_size, cursor[0], size)
    cursor[0] += size
    session.partial_size += <uint8_t>size
    if session.partial_size < YAMUX_HEADER_SIZE:
        return False
    yamux_header_decode(session.partial, header)
    session.partial_size = 0
    return True


cdef int frame_event_take(
    YamuxSession *session, uint8_t **cursor, uint8_t *end, YamuxEvent *event
) noexcept nogil:
    # The next event the frame in hand owes; NEED_MORE: none, or its payload is not there.
    cdef YamuxStream *stream = session.payload_stream
    cdef size_t size
    event.stream = stream
    if session.payload_flags & YAMUX_SYN:
        session.payload_flags &= ~<uint32_t>YAMUX_SYN
        return YAMUX_EVENT_OPEN
    if session.payload_flags & YAMUX_ACK:
        session.payload_flags &= ~<uint32_t>YAMUX_ACK
        return YAMUX_EVENT_ACK
    if session.payload_flags & FLAG_WINDOW_GREW:
        session.payload_flags &= ~<uint32_t>FLAG_WINDOW_GREW
        return YAMUX_EVENT_WINDOW
    if session.payload_remaining != 0:
        size = <size_t>(end - cursor[0])
        if size == 0:
            return YAMUX_EVENT_NEED_MORE
        if size > session.payload_remaining:
            size = session.payload_remaining
        session.payload_remaining -= <uint32_t>size
        if stream == NULL:
            cursor[0] += size
            surplus_take(session, size)
            return YAMUX_EVENT_NEED_MORE
        event.data = cursor[0]
        event.size = size
        cursor[0] += size
        window_deliver(stream, <uint32_t>size)
        return YAMUX_EVENT_DATA
    session.payload_stream = NULL
    if session.payload_flags & YAMUX_RST:
        session.payload_flags = 0
        stream.flags |= YAMUX_STREAM_RESET
        event.code = session.payload_code
        return YAMUX_EVENT_RESET
    if session.payload_flags & YAMUX_FIN:
        session.payload_flags = 0
        stream.flags |= YAMUX_STREAM_FIN_RECEIVED
        return YAMUX_EVENT_FIN
    event.stream = NULL                  # the next frame may have none
    return YAMUX_EVENT_NEED_MORE


cdef int frame_take(
    YamuxSession *session, const YamuxHeader *header, YamuxEvent *event
) noexcept nogil:
    # An event of the frame itself, a YamuxError, or NEED_MORE.
    if header.version != 0:
        return YAMUX_ERROR_VERSION
    if header.type <= YAMUX_WINDOW_UPDATE:
        return stream_frame_take(session, header)
    if header.type == YAMUX_PING:
        return ping_frame_take(session, header, event)
    if header.type == YAMUX_GO_AWAY:
        session.go_away_received = True
        event.code = header.length
        return YAMUX_EVENT_GO_AWAY
    return YAMUX_ERROR_TYPE


cdef int stream_frame_take(YamuxSession *session, const YamuxHeader *header) noexcept nogil:
    # A Data or WindowUpdate header. 0 or a YamuxError.
    cdef bint is_data = header.type == YAMUX_DATA
    cdef uint32_t flags = header.flags & FLAGS_ON_WIRE
    cdef uint32_t length = header.length
    cdef YamuxStream *stream
    cdef int result
    if header.stream_id == 0:
        return YAMUX_ERROR_STREAM_ID
    stream = table_find(session, header.stream_id)
    if not is_data or length == 0:
        session.empty_frames += 1
    if flags & YAMUX_RST:
        session.resets_received += 1
        flags &= ~<uint32_t>YAMUX_FIN
        session.payload_code = length
        length = 0
    if flags & YAMUX_SYN:
        session.opens_received += 1
        if stream != NULL or (header.stream_id & 1) == <uint32_t>session.is_client:
            return YAMUX_ERROR_STREAM_ID
        if header.stream_id > session.peer_last_id:
            session.peer_last_id = header.stream_id
        if session.go_away_sent or session.peer_stream_count >= session.streams_max:
            session.streams_refused += 1
            session.payload_remaining = length if is_data else 0
            if flags & YAMUX_RST:
                return 0
            return YAMUX_ERROR_MEMORY if frame_write(
                session, YAMUX_WINDOW_UPDATE, YAMUX_RST, header.stream_id, YAMUX_RESET_REFUSED
            ) < 0 else 0
        stream = stream_create(session, header.stream_id)
        if stream == NULL:
            return YAMUX_ERROR_MEMORY
        session.peer_stream_count += 1
    elif (
        stream == NULL or stream.flags & YAMUX_STREAM_RESET
        or is_behind_fin(stream, is_data, flags, length)
    ):
        session.unknown_stream_frames += 1
        session.payload_remaining = length if is_data else 0
        return 0
    result = stream_frame_apply(stream, is_data, flags, length)
    if result < 0 and flags & YAMUX_SYN:
        stream_destroy(stream)           # nobody has heard of it yet, nor will
    return result


cdef bint is_behind_fin(
    const YamuxStream *stream, bint is_data, uint32_t flags, uint32_t length
) noexcept nogil:
    # More of what the peer has finished. Not worth a session: a stock Go peer lets a FIN
    # overtake data, a stock Rust peer says FIN for every close of its owner's.
    return stream.flags & YAMUX_STREAM_FIN_RECEIVED != 0 and (
        flags & YAMUX_FIN != 0 or (is_data and length != 0)
    )


cdef int stream_frame_apply(
    YamuxStream *stream, bint is_data, uint32_t flags, uint32_t length
) noexcept nogil:
    # Check a frame of a live stream, change what changes at once, note what it owes.
    cdef YamuxSession *session = stream.session
    if flags & YAMUX_ACK:
        if (
            not stream.flags & YAMUX_STREAM_SYN_SENT
            or stream.flags & YAMUX_STREAM_ACK_RECEIVED
        ):
            return YAMUX_ERROR_FLAGS
        stream.flags |= YAMUX_STREAM_ACK_RECEIVED
    if is_data:
        if not window_announce(stream, length):
            return YAMUX_ERROR_WINDOW
    elif length != 0:
        if not window_grow(stream, length):
            return YAMUX_ERROR_WINDOW
        if not flags & YAMUX_SYN:
            flags |= FLAG_WINDOW_GREW
    # An answer without an ACK is an acceptance too: a peer that never sends ACKs
    # must not use up YAMUX_UNACKED_MAX for ever.
    stream_unacked_clear(stream)
    session.payload_stream = stream
    session.payload_flags = flags
    session.payload_remaining = length if is_data else 0
    return 0


cdef int ping_frame_take(
    YamuxSession *session, const YamuxHeader *header, YamuxEvent *event
) noexcept nogil:
    if header.flags & YAMUX_SYN:
        session.pings_received += 1
        if frame_write(session, YAMUX_PING, YAMUX_ACK, 0, header.length) < 0:
            return YAMUX_ERROR_MEMORY
        return YAMUX_EVENT_NEED_MORE
    if not session.ping_outstanding or header.length != session.ping_value:
        return YAMUX_ERROR_PING
    session.ping_outstanding = False
    event.code = header.length
    return YAMUX_EVENT_PONG


cdef void surplus_take(YamuxSession *session, size_t size) noexcept nogil:
    session.unknown_stream_bytes += size
    if size <= session.owed_bytes:
        session.owed_bytes -= size
        return
    session.surplus_bytes += size - session.owed_bytes
    session.owed_bytes = 0
