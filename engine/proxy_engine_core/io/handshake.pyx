# See handshake.pxd.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

from proxy_engine_core.atomic cimport atomic_load_relaxed
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_TLS_HANDSHAKES, COUNT_TLS_HANDSHAKES_FAILED,
    COUNT_TLS_HANDSHAKES_REFUSED, COUNT_TLS_HANDSHAKE_TIMEOUTS, COUNT_TLS_PLAIN_REQUESTS,
    COUNT_TLS_RESUMED, COUNT_TURNS, count,
)
from proxy_engine_core.io.conn cimport conn_deadline, conn_requeue
from proxy_engine_core.io.raw cimport raw_recv, raw_send
from proxy_engine_core.io.socket cimport socket_finish_writing
from proxy_engine_core.io.sys cimport MSG_PEEK, recv
from proxy_engine_core.io.tls cimport tls_flush, tls_give, tls_leave_handshake, tls_new
from proxy_engine_core.io.tls_openssl cimport (
    TLS_ERROR_SIZE, TlsContext, tls_session_handshake, tls_session_is_resumed, tls_session_start,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_HANDSHAKE, CONN_READABLE, CONN_WRITABLE, TLS_FAILED, TLS_OPEN,
    Conn, Tls, Worker,
)

cdef enum:
    HANDSHAKES_A_TURN = 4
    RECORD_HANDSHAKE = 22                 # first byte of a ClientHello's record (RFC 8446, 5.1)
    LINGER_MS = 1000                      # for the peer of a failed one to read why, and go
    LINGER_SIZE_MAX = 64 * 1024 * 1024    # bytes read off from it: it may be an upload
    LINGER_BUDGET = 256 * 1024            # ... before others get a turn
    READ_SIZE = 16 * 1024

cdef const char *PLAIN_ANSWER = (
    "HTTP/1.1 400 Bad Request\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: 62\r\n"
    "Connection: close\r\n"
    "\r\n"
    "This port speaks TLS only: ask with https:// instead of http.\n"
)


cdef void handshake_init_worker(Worker *worker) noexcept nogil:
    worker.ops[<int>CONN_HANDSHAKE].ready = handshake_ready
    worker.ops[<int>CONN_HANDSHAKE].timeout = handshake_timeout
    worker.ops[<int>CONN_HANDSHAKE].flush = nothing
    worker.ops[<int>CONN_HANDSHAKE].sent = nothing
    worker.ops[<int>CONN_HANDSHAKE].release = nothing         # tls_leave_handshake() comes first


cdef void nothing(Conn *conn) noexcept nogil:
    pass


cdef bint handshake_admits(Worker *worker) noexcept nogil:
    if worker.handshakes < worker.options.tls_handshakes_max:
        return True
    count(worker.counters, COUNT_TLS_HANDSHAKES_REFUSED, 1)
    return False


cdef bint handshake_start(Conn *conn, TlsContext *context) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Tls *tls = tls_new(context)
    cdef uint64_t most = worker.options.tls_handshake_timeout_ms
    if tls == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return False
    tls_give(conn, tls)
    tls.kind = conn.kind
    tls.deadline_ms = conn.timer.deadline_ms
    conn.kind = CONN_HANDSHAKE
    if context.is_server:
        worker.handshakes += 1
    if tls.deadline_ms == 0 or tls.deadline_ms > worker.now_ms + most:
        conn_deadline(conn, most)
    if not context.is_server:
        handshake_ready(conn)             # it speaks first
    return True


cdef void handshake_ready(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Tls *tls = conn.tls
    cdef bint is_server = tls.session.context.is_server
    cdef int result
    if tls.state == TLS_FAILED:
        linger(conn)
        return
    if is_server and not tls.is_spoken and not look_at_first_byte(conn):
        return
    if is_server and not take_step(worker):
        conn_requeue(conn)
        return
    if tls.session.ssl == NULL and tls_session_start(&tls.session) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        fail(conn, b"no memory")
        return
    result = tls_session_handshake(&tls.session, tls.error)
    if tls_flush(conn) < 0:
        conn.flags |= CONN_BROKEN
    if result == 1:
        done(conn)
    elif result != -EAGAIN or tls.has_ended or (
        conn.flags & CONN_BROKEN and not conn.flags & CONN_READABLE
    ):
        fail(conn, b"the connection ended in the middle of the handshake")


cdef bint take_step(Worker *worker) noexcept nogil:
    cdef uint64_t turn = atomic_load_relaxed(&worker.counters[<int>COUNT_TURNS])
    if worker.handshake_turn != turn:
        worker.handshake_turn = turn
        worker.handshake_steps = 0
    worker.handshake_steps += 1
    return worker.handshake_steps <= HANDSHAKES_A_TURN


cdef void done(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Tls *tls = conn.tls
    count(worker.counters, COUNT_TLS_HANDSHAKES, 1)
    if tls_session_is_resumed(&tls.session):
        count(worker.counters, COUNT_TLS_RESUMED, 1)
    tls.state = TLS_OPEN
    # Data may have come with the last of the handshake, and be in OpenSSL's buffer already.
    conn.flags |= CONN_READABLE | CONN_WRITABLE
    hand_on(conn)


cdef void hand_on(Conn *conn) noexcept nogil:
    """To whom it belongs, with the deadline it came with."""
    cdef Worker *worker = conn.worker
    cdef uint64_t deadline_ms = conn.tls.deadline_ms
    tls_leave_handshake(conn)
    if deadline_ms == 0:
        conn_deadline(conn, 0)
    else:
        conn_deadline(conn, deadline_ms - worker.now_ms if deadline_ms > worker.now_ms else 1)
    worker.ops[conn.kind].ready(conn)


# --- what goes wrong ------------------------------------------------------------------------

cdef void fail(Conn *conn, const char *reason) noexcept nogil:
    """For a reason OpenSSL gave, or `reason` if it gave none."""
    cdef Tls *tls = conn.tls
    count(conn.worker.counters, COUNT_TLS_HANDSHAKES_FAILED, 1)
    tls.state = TLS_FAILED
    if tls.has_ended or tls.error[0] == 0:
        snprintf(tls.error, TLS_ERROR_SIZE, "%s", reason)
    if tls.session.context.is_server and not tls.has_ended and not conn.flags & CONN_BROKEN:
        start_lingering(conn)
        return
    if not tls.has_ended and not conn.flags & CONN_BROKEN:
        socket_finish_writing(conn.fd)
    end(conn)


cdef void end(Conn *conn) noexcept nogil:
    conn.flags |= CONN_BROKEN
    hand_on(conn)


cdef void start_lingering(Conn *conn) noexcept nogil:
    # A close with unread input would be a reset, which destroys what was said last.
    conn.tls.state = TLS_FAILED
    socket_finish_writing(conn.fd)
    conn_deadline(conn, LINGER_MS)
    linger(conn)


cdef void linger(Conn *conn) noexcept nogil:
    cdef Tls *tls = conn.tls
    cdef int64_t received
    cdef uint32_t most = tls.lingered + LINGER_BUDGET
    while conn.flags & CONN_READABLE:
        if tls.lingered >= most:
            conn_requeue(conn)
            return
        received = raw_recv(conn, conn.worker.scratch, READ_SIZE)
        if received == -EAGAIN:
            break
        if received > 0:
            tls.lingered += <uint32_t>received
        if received <= 0 or tls.lingered > LINGER_SIZE_MAX:
            end(conn)
            return
    if conn.flags & CONN_BROKEN:
        end(conn)


cdef void handshake_timeout(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    if conn.tls.state == TLS_FAILED:
        end(conn)
    elif conn.tls.session.context.is_server:
        count(worker.counters, COUNT_TLS_HANDSHAKE_TIMEOUTS, 1)
        end(conn)
    else:
        count(worker.counters, COUNT_TLS_HANDSHAKE_TIMEOUTS, 1)
        tls_leave_handshake(conn)
        worker.ops[conn.kind].timeout(conn)


cdef bint look_at_first_byte(Conn *conn) noexcept nogil:
    """True: it begins a handshake. Else it has been answered, has gone, or there is none yet."""
    cdef uint8_t first = 0
    cdef ssize_t received = -1
    while True:
        received = recv(conn.fd, &first, 1, MSG_PEEK)
        if received >= 0 or errno != EINTR:
            break
    if received < 0 and errno == EAGAIN:
        conn.flags &= ~CONN_READABLE
        return False
    if received <= 0:
        end(conn)
        return False
    conn.tls.is_spoken = True
    if first == RECORD_HANDSHAKE:
        return True
    if c'A' <= first <= c'Z':
        count(conn.worker.counters, COUNT_TLS_PLAIN_REQUESTS, 1)
        raw_send(conn, <const uint8_t *>PLAIN_ANSWER, strlen(PLAIN_ANSWER))
    else:
        count(conn.worker.counters, COUNT_TLS_HANDSHAKES_FAILED, 1)
    start_lingering(conn)
    return False
