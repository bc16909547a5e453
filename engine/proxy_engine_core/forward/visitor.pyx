# See transaction.pxd for the life of a request. Everything here runs from
# visitor_ready(): an edge, a grown window, room in the link, a free stream and a finished
# response all just requeue the connection, and ready() goes on where the state says.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.buffer cimport buffer_free, buffer_init, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_AUTH_TIMEOUTS, COUNT_BODY_TIMEOUTS, COUNT_HALF_CLOSE_ABORTS, COUNT_HEAD_TIMEOUTS,
    COUNT_KEEPALIVE_TIMEOUTS, COUNT_MEMORY_ERRORS, COUNT_OPEN_TIMEOUTS, COUNT_RESPONSE_TIMEOUTS,
    COUNT_SLOW_BODIES, COUNT_SLOW_READERS, COUNT_TIMEOUTS, COUNT_TUNNEL_TIMEOUTS, count,
)
from proxy_engine_core.forward.addresses cimport address_key
from proxy_engine_core.forward.admission cimport (
    admission_enter, admission_leave, admit_connection,
)
from proxy_engine_core.forward.body cimport run_tunnel, send_body
from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED, is_trusted_peer
from proxy_engine_core.forward.clock cimport (
    is_connecting, reader_is_late, reader_moved, transaction_deadline, upload_is_awaited,
    upload_is_late, visitor_rest_deadline,
)
from proxy_engine_core.forward.describe cimport new_request_id
from proxy_engine_core.forward.direct cimport direct_run
from proxy_engine_core.forward.dispatch cimport request_overloaded
from proxy_engine_core.forward.pace cimport is_paced, pace_credit
from proxy_engine_core.forward.request cimport read_head
from proxy_engine_core.forward.tcp cimport tcp_begin, tcp_open, tcp_read_header
from proxy_engine_core.forward.transaction cimport (
    RESPONSE_HEAD, VISITOR_ACTIVE, VISITOR_AUTH, VISITOR_DIRECT, VISITOR_HEAD, VISITOR_LINGER,
    VISITOR_OUT_HIGH,
    VISITOR_TCP_HEADER, VISITOR_TCP_OPENING, VISITOR_TUNNEL, VISITOR_WAITING, Transaction, Visitor,
    transaction_begin, transaction_fail, transaction_free, visitor_close, visitor_finish,
    visitor_linger,
)
from proxy_engine_core.io.conn cimport (
    conn_attach, conn_deadline, conn_flush_out, conn_owed, conn_requeue,
)
from proxy_engine_core.io.handshake cimport (
    handshake_admits, handshake_init_worker, handshake_start,
)
from proxy_engine_core.io.parting cimport parting_init_worker
from proxy_engine_core.io.socket cimport (
    Address, address_port, address_text, socket_close, socket_reset_on_close,
)
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_HUP, CONN_NEW, CONN_READABLE, CONN_VISITOR, Conn, Worker,
)
from proxy_engine_core.link.output cimport link_touch
from proxy_engine_core.yamux.session cimport YamuxStream
from proxy_engine_core.yamux.stream cimport yamux_stream_consume


cdef void visitor_init_worker(Worker *worker) noexcept nogil:
    worker.on_accept = visitor_accept
    worker.ops[<int>CONN_VISITOR].ready = visitor_ready
    worker.ops[<int>CONN_VISITOR].timeout = visitor_timeout
    worker.ops[<int>CONN_VISITOR].flush = NULL
    worker.ops[<int>CONN_VISITOR].sent = visitor_sent
    worker.ops[<int>CONN_VISITOR].release = visitor_release
    handshake_init_worker(worker)
    parting_init_worker(worker)


cdef Visitor *visitor_new(Worker *worker) noexcept nogil:
    cdef Visitor *visitor = <Visitor *>calloc(1, sizeof(Visitor))
    if visitor == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    buffer_init(&visitor.conn.out, &worker.pool, 0)
    buffer_init(&visitor.input, &worker.pool, 0)
    return visitor


cdef void visitor_accept(
    Worker *worker, int fd, Address *peer, uint16_t port, TlsContext *tls
) noexcept nogil:
    cdef Visitor *visitor
    cdef bint is_trusted = is_trusted_peer(worker, peer)
    if not is_trusted and not admit_connection(worker, peer) or (
        tls != NULL and not handshake_admits(worker)
    ):
        socket_reset_on_close(fd)         # no state is left behind for it, here or in the kernel
        socket_close(fd)
        return
    visitor = visitor_new(worker)
    if visitor == NULL:
        socket_reset_on_close(fd)         # of a TCP tunnel an end would say that all is well
        socket_close(fd)
        return
    visitor.address_size = <uint8_t>address_text(peer, visitor.address)
    visitor.port = address_port(peer)
    if conn_attach(worker, &visitor.conn, fd, CONN_VISITOR) < 0:
        free(visitor)
        return
    visitor.address_key = CLIENT_KEY_TRUSTED if is_trusted else address_key(peer)
    admission_enter(visitor)
    if port:
        tcp_begin(visitor, port)
        return
    visitor.conn.flags |= CONN_NEW
    conn_deadline(&visitor.conn, worker.options.keepalive_timeout_ms)
    if tls != NULL and not handshake_start(&visitor.conn, tls):
        visitor_close(visitor)


cdef void visitor_release(Conn *conn) noexcept nogil:
    # By worker_close_conns() a connection may get here with a request under way.
    cdef Visitor *visitor = <Visitor *>conn
    if visitor.transaction != NULL:
        transaction_free(visitor)
    admission_leave(visitor)
    buffer_free(&visitor.input)
    free(visitor)


cdef void visitor_ready(Conn *conn) noexcept nogil:
    cdef Visitor *visitor = <Visitor *>conn
    if buffer_size(&conn.out):
        conn_flush_out(conn)
    # Of a relay's side what it said before it broke is still passed on.
    if conn.flags & CONN_BROKEN and visitor.state not in (VISITOR_LINGER, VISITOR_DIRECT):
        if visitor.transaction != NULL:
            transaction_fail(visitor, 0, b"visitor_gone", b"")
        else:
            visitor_close(visitor)
        return
    if visitor.state == VISITOR_WAITING:
        if visitor.opening_link != NULL and visitor.opening_link.opening_first != visitor:
            return
        visitor.state = VISITOR_HEAD
    if visitor.state == VISITOR_HEAD:
        read_head(visitor)
    elif visitor.state == VISITOR_ACTIVE:
        send_body(visitor)
    elif visitor.state == VISITOR_TUNNEL:
        run_tunnel(visitor)
    elif visitor.state == VISITOR_DIRECT:
        direct_run(visitor)
    elif visitor.state == VISITOR_TCP_OPENING:
        tcp_open(visitor)
    elif visitor.state == VISITOR_TCP_HEADER:
        tcp_read_header(visitor)
    elif visitor.state == VISITOR_LINGER:
        visitor_linger(visitor)
    if (
        conn.flags & CONN_HUP and visitor.state in (VISITOR_ACTIVE, VISITOR_WAITING)
        and conn.worker.options.abort_on_half_close and not conn.flags & CONN_CLOSED
    ):
        count(conn.worker.counters, COUNT_HALF_CLOSE_ABORTS, 1)
        transaction_fail(visitor, 0, b"visitor_gone", b"")


cdef void visitor_sent(Conn *conn) noexcept nogil:
    # What the visitor's socket has taken may come again from the target.
    cdef Visitor *visitor = <Visitor *>conn
    cdef YamuxStream *stream
    cdef uint32_t owed = conn_owed(conn)
    reader_moved(visitor, owed)
    if visitor.transaction != NULL and visitor.transaction.http != NULL:
        stream = visitor.transaction.http.stream
        if visitor.transaction.quota != NULL:
            pace_credit(visitor, owed)
        elif stream.unconsumed > owed:
            yamux_stream_consume(stream, stream.unconsumed - owed)
            link_touch(visitor.transaction.link)
        if owed:
            transaction_deadline(visitor)
        return
    if visitor.transaction == NULL and buffer_size(&visitor.input) == 0:
        visitor_rest_deadline(visitor)
    if visitor.state == VISITOR_HEAD and owed < VISITOR_OUT_HIGH:
        conn_requeue(conn)


cdef void visitor_timeout(Conn *conn) noexcept nogil:
    cdef Visitor *visitor = <Visitor *>conn
    cdef uint64_t *counters = conn.worker.counters
    if visitor.transaction != NULL:
        if is_paced(visitor) and (
            visitor.transaction.http != NULL or visitor.transaction.data != NULL
        ):
            transaction_deadline(visitor)     # nobody but us is slow
            return
        count(counters, COUNT_TIMEOUTS, 1)
        request_timeout(visitor)
    elif conn_owed(conn):
        count(counters, COUNT_SLOW_READERS, 1)
        visitor_close(visitor)            # it does not take the last response
    elif visitor.state == VISITOR_LINGER:
        visitor_close(visitor)            # it never ends
    elif buffer_size(&visitor.input) == 0:
        count(counters, COUNT_KEEPALIVE_TIMEOUTS, 1)
        visitor_close(visitor)            # idle keep-alive, or a peer that never spoke
    elif transaction_begin(visitor) == NULL:
        visitor_close(visitor)
    else:
        new_request_id(visitor)
        count(counters, COUNT_TIMEOUTS, 1)
        count(counters, COUNT_HEAD_TIMEOUTS, 1)
        transaction_fail(
            visitor, 408, b"head_timeout", b"The request head did not come in time."
        )


cdef void request_timeout(Visitor *visitor) noexcept nogil:
    """A time limit of the request under way is over: which one?"""
    cdef Transaction *transaction = visitor.transaction
    cdef uint64_t *counters = visitor.conn.worker.counters
    if reader_is_late(visitor):
        count(counters, COUNT_SLOW_READERS, 1)
        transaction_fail(visitor, 0, b"slow_reader", b"")
    elif visitor.state == VISITOR_TCP_HEADER:
        count(counters, COUNT_HEAD_TIMEOUTS, 1)
        transaction_fail(visitor, 0, b"head_timeout", b"")
    elif visitor.state in (VISITOR_TUNNEL, VISITOR_DIRECT) and is_connecting(transaction):
        count(counters, COUNT_OPEN_TIMEOUTS, 1)
        transaction_fail(visitor, 0, b"target_timeout", b"")
    elif visitor.state in (VISITOR_TUNNEL, VISITOR_DIRECT):
        count(counters, COUNT_TUNNEL_TIMEOUTS, 1)
        transaction_fail(visitor, 0, b"tunnel_timeout", b"")
    elif visitor.state == VISITOR_AUTH:
        count(counters, COUNT_AUTH_TIMEOUTS, 1)
        transaction_fail(
            visitor, 503, b"auth_timeout", b"The server could not check the token in time."
        )
    elif visitor.state in (VISITOR_HEAD, VISITOR_WAITING, VISITOR_TCP_OPENING):
        count(counters, COUNT_OPEN_TIMEOUTS, 1)
        request_overloaded(visitor)
    elif transaction.response_state != RESPONSE_HEAD:
        count(counters, COUNT_BODY_TIMEOUTS, 1)
        transaction_fail(visitor, 0, b"body_timeout", b"")
    elif upload_is_late(visitor):
        count(counters, COUNT_SLOW_BODIES, 1)
        transaction_fail(visitor, 408, b"slow_body", b"The request body came too slowly.")
    elif upload_is_awaited(transaction):
        count(counters, COUNT_BODY_TIMEOUTS, 1)
        transaction_fail(visitor, 408, b"body_timeout", b"The request body did not come in time.")
    else:
        count(counters, COUNT_RESPONSE_TIMEOUTS, 1)
        transaction_fail(
            visitor, 504, b"response_timeout", b"The service did not answer in time."
        )


cdef void visitors_drain(Worker *worker) noexcept nogil:
    cdef uint32_t slot
    cdef Visitor *visitor
    for slot in range(worker.slot_count):
        if worker.conns[slot] == NULL or worker.conns[slot].kind != CONN_VISITOR:
            continue
        visitor = <Visitor *>worker.conns[slot]
        # A request that is coming in right now is still served, and then closed.
        if (
            visitor.state == VISITOR_HEAD and visitor.transaction == NULL
            and buffer_size(&visitor.input) == 0 and not visitor.conn.flags & CONN_READABLE
        ):
            visitor_finish(visitor)


cdef bint visitors_owed(Worker *worker) noexcept nogil:
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if (
            worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_VISITOR
            and conn_owed(worker.conns[slot])
        ):
            return True
    return False
