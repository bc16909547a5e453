# Reading frames into events, and encoding what the owner of a stream wants sent.
# See session.pxd for the rules and docs/protocol.md for their reasons.
#
# Reading: a frame is taken in when its 12 header bytes are there (header_take),
# checked and applied at once (stream_frame_take), and then owes its events in this
# order, one per call of yamux_session_next (frame_event_take):
#
#   OPEN -> ACK -> WINDOW -> DATA ... DATA -> RESET | FIN
#
# What is still owed is in payload_stream, payload_flags and payload_remaining, so a
# frame may be cut at any byte and a stream may be released in the middle of one.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from proxy_engine_core.buffer cimport (
    Buffer, buffer_commit, buffer_free, buffer_head, buffer_reserve, buffer_size
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.yamux.frame cimport (
    YAMUX_ACK, YAMUX_DATA, YAMUX_FIN, YAMUX_GO_AWAY, YAMUX_HEADER_SIZE, YAMUX_PING, YAMUX_RST,
    YAMUX_SYN, YAMUX_WINDOW_UPDATE, YamuxHeader, yamux_header_decode, yamux_header_encode
)
from proxy_engine_core.yamux.table cimport table_any, table_find, table_insert, table_remove
from proxy_engine_core.yamux.window cimport (
    window_announce, window_consume, window_deliver, window_forget, window_grant, window_grow,
    window_measure, window_should_grant, window_spend, window_widen
)


cdef enum:
    FLAGS_ON_WIRE = YAMUX_SYN | YAMUX_ACK | YAMUX_FIN | YAMUX_RST  # others are ignored
    FLAG_WINDOW_GREW = 1 << 16                                     # ours: WINDOW is owed


cdef int header_write(
    Buffer *out, uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length
) noexcept nogil:
    cdef uint8_t *target = buffer_reserve(out, YAMUX_HEADER_SIZE)
    if target == NULL:
        return -ENOMEM
    yamux_header_encode(target, type, flags, stream_id, length)
    buffer_commit(out, YAMUX_HEADER_SIZE)
    return 0


cdef int frame_write(
    YamuxSession *session, uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length
) noexcept nogil:
    # A frame that is all header and may pass data. 0 or -ENOMEM.
    if header_write(session.urgent, type, flags, stream_id, length) < 0:
        return -ENOMEM
    session.urgent_end += YAMUX_HEADER_SIZE
    return 0


cdef int last_frame_write(
    YamuxStream *stream, uint8_t type, uint16_t flags, uint32_t length
) noexcept nogil:
    # ... and that stays behind the stream's data: FIN, RST.
    cdef YamuxSession *session = stream.session
    if not yamux_stream_has_bulk(stream):
        return frame_write(session, type, flags, stream.id, length)
    if header_write(session.out, type, flags, stream.id, length) < 0:
        return -ENOMEM
    stream_sent(stream, session.out, YAMUX_HEADER_SIZE)
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


cdef YamuxStream *stream_create(YamuxSession *session, uint32_t id) noexcept nogil:
    cdef YamuxStream *stream = <YamuxStream *>calloc(1, sizeof(YamuxStream))
    if stream == NULL:
        return NULL
    stream.session = session
    stream.id = id
    stream.send_window = session.window
    stream.receive_window = session.window
    stream.window = session.window
    if table_insert(session, stream) < 0:
        free(stream)
        return NULL
    return stream


cdef void stream_unacked_clear(YamuxStream *stream) noexcept nogil:
    if stream.flags & YAMUX_STREAM_UNACKED:
        stream.flags &= ~YAMUX_STREAM_UNACKED
        stream.session.unacked_count -= 1


cdef void stream_destroy(YamuxStream *stream) noexcept nogil:
    cdef YamuxSession *session = stream.session
    stream_unacked_clear(stream)
    if not stream.flags & YAMUX_STREAM_SYN_SENT:
        session.peer_stream_count -= 1
    if session.payload_stream == stream:
        # The rest of the frame being read is for nobody.
        session.owed_bytes += session.payload_remaining
        session.payload_stream = NULL
        session.payload_flags = 0
    window_forget(stream)
    table_remove(session, stream)
    free(stream)


cdef void yamux_session_init(
    YamuxSession *session, bint is_client, Buffer *out, Buffer *urgent, uint32_t window,
    uint32_t streams_max
) noexcept nogil:
    memset(session, 0, sizeof(YamuxSession))
    session.out = out
    session.urgent = urgent
    session.is_client = is_client
    session.next_id = 1 if is_client else 2
    session.window = window
    session.window_start = window
    session.streams_max = streams_max


cdef void yamux_session_tune(
    YamuxSession *session, WindowBudget *budget, uint32_t start
) noexcept nogil:
    session.budget = budget
    session.window_start = start if start > session.window else session.window


cdef void yamux_session_free(YamuxSession *session) noexcept nogil:
    cdef YamuxStream *stream = table_any(session)
    while stream != NULL:
        stream_destroy(stream)
        stream = table_any(session)


cdef YamuxStream *yamux_session_any_stream(YamuxSession *session) noexcept nogil:
    return table_any(session)


# Reading


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


cdef void surplus_take(YamuxSession *session, size_t size) noexcept nogil:
    session.unknown_stream_bytes += size
    if size <= session.owed_bytes:
        session.owed_bytes -= size
        return
    session.surplus_bytes += size - session.owed_bytes
    session.owed_bytes = 0


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


cdef bint is_behind_fin(
    const YamuxStream *stream, bint is_data, uint32_t flags, uint32_t length
) noexcept nogil:
    # More of what the peer has finished. Not worth a session: a stock Go peer lets a FIN
    # overtake data, a stock Rust peer says FIN for every close of its owner's.
    return stream.flags & YAMUX_STREAM_FIN_RECEIVED != 0 and (
        flags & YAMUX_FIN != 0 or (is_data and length != 0)
    )


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


# Sending


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


cdef uint32_t stream_start(YamuxStream *stream, uint32_t window) noexcept nogil:
    # The credit beyond the agreed window that a SYN or ACK carries, if the budget has it.
    if window <= stream.window or stream.flags & YAMUX_STREAM_FIN_RECEIVED:
        return 0
    if window_widen(stream, window - stream.window) == 0:
        return 0
    return stream.ungranted


cdef YamuxStream *yamux_stream_open(YamuxSession *session, uint32_t window) noexcept nogil:
    cdef YamuxStream *stream
    cdef uint32_t credit
    if (
        session.next_id == 0
        or session.go_away_received
        or session.unacked_count >= YAMUX_UNACKED_MAX
    ):
        return NULL
    stream = stream_create(session, session.next_id)
    if stream == NULL:
        return NULL
    stream.flags = YAMUX_STREAM_SYN_SENT | YAMUX_STREAM_UNACKED
    session.unacked_count += 1
    credit = stream_start(stream, window)
    if frame_write(session, YAMUX_WINDOW_UPDATE, YAMUX_SYN, stream.id, credit) < 0:
        stream_destroy(stream)
        return NULL
    window_grant(stream, credit)
    session.next_id = stream.id + 2 if stream.id <= <uint32_t>0xFFFFFFFD else 0
    return stream


cdef int yamux_stream_accept(YamuxStream *stream, uint32_t window) noexcept nogil:
    cdef uint32_t credit
    CHECK(not stream.flags & YAMUX_STREAM_SYN_SENT)
    if stream.flags & (YAMUX_STREAM_ACK_SENT | YAMUX_STREAM_RESET):
        return 0
    credit = stream_start(stream, window)
    if frame_write(
        stream.session, YAMUX_WINDOW_UPDATE, YAMUX_ACK, stream.id, credit
    ) < 0:
        return -ENOMEM
    window_grant(stream, credit)
    stream.flags |= YAMUX_STREAM_ACK_SENT
    return 0


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


cdef int stream_credit(YamuxStream *stream) noexcept nogil:
    # Grant what is owed, once it is worth a frame.
    if stream.flags & (YAMUX_STREAM_FIN_RECEIVED | YAMUX_STREAM_RESET):
        return 0                         # nothing more will come
    if not window_should_grant(stream):
        return 0
    if frame_write(
        stream.session, YAMUX_WINDOW_UPDATE, 0, stream.id, stream.ungranted
    ) < 0:
        return -ENOMEM                   # still ungranted; the next call tries again
    window_grant(stream, stream.ungranted)
    return 0


cdef int yamux_stream_consume(YamuxStream *stream, uint32_t size) noexcept nogil:
    window_consume(stream, size)
    if stream.session.budget != NULL and not stream.flags & (
        YAMUX_STREAM_FIN_RECEIVED | YAMUX_STREAM_RESET
    ):
        window_measure(stream, size)
    return stream_credit(stream)


cdef int yamux_stream_settle(YamuxStream *stream) noexcept nogil:
    window_consume(stream, stream.unconsumed)
    return stream_credit(stream)


cdef void yamux_stream_release(YamuxStream *stream, uint32_t code) noexcept nogil:
    cdef YamuxSession *session = stream.session
    cdef bint is_settled = stream.flags & (YAMUX_STREAM_SYN_SENT | YAMUX_STREAM_ACK_SENT) != 0
    if not (
        stream.flags & YAMUX_STREAM_RESET or (is_settled and yamux_stream_is_closed(stream))
    ):
        session.owed_bytes += stream.receive_window
        # On WindowUpdate, because on Data a stock peer would wait for `code` bytes.
        if last_frame_write(stream, YAMUX_WINDOW_UPDATE, YAMUX_RST, code) < 0:
            session.error = YAMUX_ERROR_MEMORY   # the peer would keep it for ever
    stream_destroy(stream)
