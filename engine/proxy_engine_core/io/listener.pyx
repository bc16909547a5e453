# See listener.pxd.

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENOMEM, EPROTO
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.buffer cimport buffer_init
from proxy_engine_core.counters cimport COUNT_ACCEPT_ERRORS, COUNT_ACCEPTED, count
from proxy_engine_core.io.conn cimport conn_attach, conn_close, conn_deadline, conn_requeue
from proxy_engine_core.io.pressure cimport pressure_accepted, pressure_stops_accept
from proxy_engine_core.io.socket cimport (
    Address, address_is_loopback, socket_accept, socket_local_address, socket_tune_path,
)
from proxy_engine_core.io.sys cimport close
from proxy_engine_core.io.tls_openssl cimport TlsContext, tls_context_drop, tls_context_hold
from proxy_engine_core.io.worker cimport CONN_LISTENER, Conn, Worker

cdef enum:
    ACCEPT_BATCH = 16                 # connections accepted before others get a turn
    ACCEPT_PAUSE_MS = 100             # out of file descriptors: try again, never spin


cdef void listener_init_worker(Worker *worker) noexcept nogil:
    worker.ops[<int>CONN_LISTENER].ready = listener_ready
    worker.ops[<int>CONN_LISTENER].timeout = listener_ready
    worker.ops[<int>CONN_LISTENER].release = listener_release


cdef int listener_open(
    Worker *worker, int fd, uint16_t port, uint16_t tls_port, TlsContext *tls
) noexcept nogil:
    cdef Listener *listener = <Listener *>calloc(1, sizeof(Listener))
    cdef Address local
    cdef int error
    if listener == NULL:
        close(fd)
        return -ENOMEM
    listener.port = port
    listener.tls_port = tls_port
    listener.tls_context = tls_context_hold(tls)
    listener.is_loopback = socket_local_address(fd, &local) == 0 and address_is_loopback(&local)
    buffer_init(&listener.conn.out, &worker.pool, 0)
    error = conn_attach(worker, &listener.conn, fd, CONN_LISTENER)
    if error < 0:
        listener_release(&listener.conn)
    return error


cdef void listener_ready(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Listener *listener = <Listener *>conn
    cdef Address peer
    cdef int fd, _accept
    for _accept in range(ACCEPT_BATCH):
        if pressure_stops_accept(worker, conn.fd):
            conn_deadline(conn, ACCEPT_PAUSE_MS)
            return
        fd = socket_accept(conn.fd, &peer)
        if fd == -EAGAIN:
            return
        if fd == -EINTR or fd == -ECONNABORTED or fd == -EPROTO:
            continue
        if fd < 0:
            # EMFILE, ENFILE, ENOBUFS, ENOMEM: nothing to do but wait. Edge-triggered,
            # so this does not spin; the timer looks again.
            count(worker.counters, COUNT_ACCEPT_ERRORS, 1)
            conn_deadline(conn, ACCEPT_PAUSE_MS)
            return
        count(worker.counters, COUNT_ACCEPTED, 1)
        pressure_accepted(worker, fd)
        if not listener.is_loopback:
            socket_tune_path(fd, &peer)   # the rest it has from the listener
        worker.on_accept(worker, fd, &peer, listener.port, listener.tls_context)
    conn_requeue(conn)          # more may be waiting, and the edge will not come again


cdef void listener_release(Conn *conn) noexcept nogil:
    tls_context_drop((<Listener *>conn).tls_context)
    free(conn)


cdef void listener_set_tls(Worker *worker, uint16_t tls_port, TlsContext *tls) noexcept nogil:
    cdef uint32_t slot
    cdef Listener *listener
    for slot in range(worker.slot_count):
        if worker.conns[slot] == NULL or worker.conns[slot].kind != CONN_LISTENER:
            continue
        listener = <Listener *>worker.conns[slot]
        if listener.tls_port == tls_port:
            tls_context_drop(listener.tls_context)
            listener.tls_context = tls_context_hold(tls)


cdef void listener_close_all(Worker *worker) noexcept nogil:
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_LISTENER:
            conn_close(worker.conns[slot])


cdef void listener_close(Worker *worker, uint16_t port) noexcept nogil:
    cdef uint32_t slot
    cdef Conn *conn
    for slot in range(worker.slot_count):
        conn = worker.conns[slot]
        if conn != NULL and conn.kind == CONN_LISTENER and (<Listener *>conn).port == port:
            conn_close(conn)
