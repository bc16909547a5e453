# See tls.pxd.

from libc.errno cimport EAGAIN, ECONNRESET, ENOMEM, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport COUNT_MEMORY_CUT_OFF, COUNT_MEMORY_ERRORS, count
from proxy_engine_core.io.pressure cimport pressure_may_keep
from proxy_engine_core.io.raw cimport raw_recv, raw_send
from proxy_engine_core.io.socket cimport socket_finish_writing
from proxy_engine_core.io.sys cimport iovec
from proxy_engine_core.io.tls_openssl cimport (
    TlsContext, TlsSession, tls_context_hold, tls_session_finish, tls_session_free,
    tls_session_has_more, tls_session_read, tls_session_write,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_FINISHED, CONN_HANDSHAKE, CONN_HUP, CONN_READABLE, CONN_WRITABLE,
    TLS_FAILED, TLS_OPEN, Conn, Tls, Worker,
)

cdef enum:
    RECORD_SIZE = 16 * 1024               # bytes of plaintext in one record, at most
    # Spans shorter than this are copied together into one record: 22 bytes and an
    # encryption of its own are dearer than the copy.
    SPAN_COPY_MAX = 8 * 1024
    # Bytes of ciphertext for a peer that makes OpenSSL answer (renegotiation that is not wanted)
    # and does not read: far more than a block, or a handshake with a long chain.
    OUT_MAX = 256 * 1024


cdef Tls *tls_new(TlsContext *context) noexcept nogil:
    cdef Tls *tls = <Tls *>calloc(1, sizeof(Tls))
    if tls == NULL:
        return NULL
    tls.session.context = tls_context_hold(context)
    tls.session.pull = pull
    tls.session.push = push
    return tls


cdef void tls_free(Tls *tls) noexcept nogil:
    if tls == NULL:
        return
    tls_session_free(&tls.session)
    buffer_free(&tls.out)
    free(tls)


cdef Tls *tls_take(Conn *conn) noexcept nogil:
    cdef Tls *tls = conn.tls
    conn.tls = NULL
    return tls


cdef void tls_give(Conn *conn, Tls *tls) noexcept nogil:
    conn.tls = tls
    if tls == NULL:
        return
    tls.conn = conn
    if tls.out.pool != &conn.worker.pool:
        CHECK(buffer_size(&tls.out) == 0)
        buffer_init(&tls.out, &conn.worker.pool, 0)


# --- ciphertext -----------------------------------------------------------------------------

cdef int64_t pull(TlsSession *session, uint8_t *target, size_t size) noexcept nogil:
    cdef Tls *tls = <Tls *>session
    cdef Conn *conn = tls.conn
    cdef int64_t received
    if not conn.flags & CONN_READABLE:
        return -EAGAIN                    # drained: the next edge tells
    received = raw_recv(conn, target, size)
    if received == 0:
        tls.has_ended = True
    return received


cdef int push(TlsSession *session, const uint8_t *source, size_t size) noexcept nogil:
    cdef Tls *tls = <Tls *>session
    cdef Worker *worker = tls.conn.worker
    if buffer_size(&tls.out) + size > OUT_MAX or not pressure_may_keep(worker, <uint32_t>size):
        count(worker.counters, COUNT_MEMORY_CUT_OFF, 1)
        return -ENOMEM
    if buffer_append(&tls.out, source, <uint32_t>size) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return -ENOMEM
    return 0


cdef int64_t tls_flush(Conn *conn) noexcept nogil:
    cdef Tls *tls = conn.tls
    cdef int64_t sent = 0
    if buffer_size(&tls.out):
        sent = raw_send(conn, buffer_head(&tls.out), buffer_size(&tls.out))
        if sent < 0:
            return sent
        if sent > 0:
            buffer_consume(&tls.out, <uint32_t>sent)
    if tls.is_finishing and buffer_size(&tls.out) == 0:
        tls.is_finishing = False
        socket_finish_writing(conn.fd)
    return sent


# --- plaintext ------------------------------------------------------------------------------

cdef int64_t tls_recv(Conn *conn, uint8_t *target, size_t size) noexcept nogil:
    cdef Tls *tls = conn.tls
    cdef size_t got = 0
    cdef int result = -EAGAIN
    if tls.state != TLS_OPEN:
        conn.flags &= ~CONN_READABLE
        return -EPROTO if tls.state == TLS_FAILED else -EAGAIN
    while got < size:
        result = tls_session_read(&tls.session, target + got, size - got, tls.error)
        if result <= 0:
            break
        got += <size_t>result
    if buffer_size(&tls.out):
        tls_flush(conn)                   # an alert, or the answer to a key update
    if got:
        # Of what comes after it we are told the next time; there may be no edge for it.
        if result > 0 and tls_session_has_more(&tls.session) or result <= 0 and result != -EAGAIN:
            conn.flags |= CONN_READABLE
        return <int64_t>got
    if result == -EAGAIN:
        return result
    conn.flags &= ~CONN_READABLE
    if result == 0:
        conn.flags |= CONN_HUP
        return 0
    if tls.has_ended:
        tls.error[0] = 0
        return -ECONNRESET
    tls.state = TLS_FAILED
    conn.flags |= CONN_BROKEN
    return result


cdef int64_t tls_send(Conn *conn, const uint8_t *source, size_t size) noexcept nogil:
    cdef Tls *tls = conn.tls
    cdef size_t taken = 0
    cdef int64_t sent
    cdef int result
    if tls.state != TLS_OPEN:
        conn.flags &= ~CONN_WRITABLE      # until the handshake is done
        return -EPROTO if tls.state == TLS_FAILED else 0
    while True:
        if buffer_size(&tls.out):
            sent = tls_flush(conn)
            if sent < 0:
                return sent
            if buffer_size(&tls.out):
                return <int64_t>taken
        if taken == size:
            return <int64_t>taken
        # Room for all of a block's records at once: growing would copy it.
        tls.out.first_size = TLS_BLOCK_SIZE + RECORD_SIZE if size - taken > RECORD_SIZE else 0
        while taken < size and buffer_size(&tls.out) < TLS_BLOCK_SIZE:
            result = tls_session_write(
                &tls.session, source + taken, min(size - taken, <size_t>RECORD_SIZE), tls.error
            )
            if result <= 0:
                tls.state = TLS_FAILED
                conn.flags &= ~CONN_WRITABLE
                return -EPROTO
            taken += <size_t>result


cdef int64_t tls_send_spans(Conn *conn, const iovec *spans, uint32_t span_count) noexcept nogil:
    cdef uint8_t record[RECORD_SIZE]
    cdef uint32_t used = 0
    cdef uint32_t index
    cdef int64_t taken = 0
    cdef int64_t sent
    for index in range(span_count):
        if spans[index].iov_len <= SPAN_COPY_MAX and used + spans[index].iov_len <= RECORD_SIZE:
            memcpy(record + used, spans[index].iov_base, spans[index].iov_len)
            used += <uint32_t>spans[index].iov_len
            continue
        if used:
            sent = tls_send(conn, record, used)
            if sent < used:
                return sent if sent < 0 else taken + sent
            taken += sent
            used = 0
        if spans[index].iov_len <= SPAN_COPY_MAX:
            memcpy(record, spans[index].iov_base, spans[index].iov_len)
            used = <uint32_t>spans[index].iov_len
            continue
        sent = tls_send(conn, <const uint8_t *>spans[index].iov_base, spans[index].iov_len)
        if sent < <int64_t>spans[index].iov_len:
            return sent if sent < 0 else taken + sent
        taken += sent
    if used:
        sent = tls_send(conn, record, used)
        return sent if sent < 0 else taken + sent
    return taken


# --- the end --------------------------------------------------------------------------------

cdef void tls_finish_writing(Conn *conn) noexcept nogil:
    if conn.tls.state == TLS_OPEN:
        tls_session_finish(&conn.tls.session)
    conn.tls.is_finishing = True
    tls_flush(conn)


cdef bint tls_close(Conn *conn) noexcept nogil:
    cdef Tls *tls = conn.tls
    cdef bint is_cut_off
    tls_leave_handshake(conn)
    if (
        tls.state == TLS_OPEN and not tls.is_aborted and buffer_size(&conn.out) == 0
        and not conn.flags & (CONN_BROKEN | CONN_FINISHED)
    ):
        tls_session_finish(&tls.session)
        tls_flush(conn)
    is_cut_off = tls.is_aborted or buffer_size(&tls.out) != 0
    tls_free(tls_take(conn))
    return is_cut_off


cdef void tls_leave_handshake(Conn *conn) noexcept nogil:
    if conn.kind != CONN_HANDSHAKE:
        return
    conn.kind = conn.tls.kind
    if conn.tls.session.context.is_server:
        conn.worker.handshakes -= 1
