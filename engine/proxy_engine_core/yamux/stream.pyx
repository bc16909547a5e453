# See stream.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.yamux.frame cimport YAMUX_ACK, YAMUX_RST, YAMUX_SYN, YAMUX_WINDOW_UPDATE
from proxy_engine_core.yamux.send cimport frame_write, last_frame_write
from proxy_engine_core.yamux.session cimport (
    YAMUX_ERROR_MEMORY, YAMUX_STREAM_ACK_SENT, YAMUX_STREAM_FIN_RECEIVED, YAMUX_STREAM_RESET,
    YAMUX_STREAM_SYN_SENT, YAMUX_STREAM_UNACKED, YamuxSession, YamuxStream,
    yamux_stream_is_closed,
)
from proxy_engine_core.yamux.table cimport table_any, table_insert, table_remove
from proxy_engine_core.yamux.window cimport (
    window_consume, window_forget, window_grant, window_measure, window_should_grant,
    window_widen,
)


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


cdef uint32_t stream_start(YamuxStream *stream, uint32_t window) noexcept nogil:
    # The credit beyond the agreed window that a SYN or ACK carries, if the budget has it.
    if window <= stream.window or stream.flags & YAMUX_STREAM_FIN_RECEIVED:
        return 0
    if window_widen(stream, window - stream.window) == 0:
        return 0
    return stream.ungranted


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


cdef void yamux_session_free(YamuxSession *session) noexcept nogil:
    cdef YamuxStream *stream = table_any(session)
    while stream != NULL:
        stream_destroy(stream)
        stream = table_any(session)


cdef YamuxStream *yamux_session_any_stream(YamuxSession *session) noexcept nogil:
    return table_any(session)
