# See parting.pxd.

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.buffer cimport Buffer, buffer_init
from proxy_engine_core.counters cimport COUNT_RESETS_LATE, count
from proxy_engine_core.io.conn cimport (
    conn_abort, conn_close, conn_deadline, conn_flush_out, conn_owed, conn_replace, gather_flush,
)
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.socket cimport socket_unacknowledged
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_PARTING, CONN_WRITABLE, Conn, Worker,
)

cdef enum:
    LOOK_MS = 20                          # no event tells that the last byte was acknowledged

cdef struct Parting:
    Conn conn
    uint64_t left                         # bytes at the last look
    uint64_t moved_ms                     # when there were fewer


cdef void parting_init_worker(Worker *worker) noexcept nogil:
    worker.ops[<int>CONN_PARTING].ready = parting_ready
    worker.ops[<int>CONN_PARTING].timeout = parting_look
    worker.ops[<int>CONN_PARTING].flush = NULL
    worker.ops[<int>CONN_PARTING].sent = parting_sent
    worker.ops[<int>CONN_PARTING].release = parting_release


cdef uint64_t bytes_left(Conn *conn) noexcept nogil:
    return conn_owed(conn) + socket_unacknowledged(conn.fd)


cdef void conn_part(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Parting *parting
    cdef Buffer out
    if conn.flags & CONN_CLOSED:
        return
    gather_flush(worker)
    conn_abort(conn)
    if (
        conn.flags & CONN_BROKEN or conn.tls != NULL or worker.is_stopping
        or worker.pressure >= PRESSURE_WORK or bytes_left(conn) == 0
    ):
        conn_close(conn)
        return
    parting = <Parting *>calloc(1, sizeof(Parting))
    if parting == NULL:
        conn_close(conn)
        return
    out = conn.out
    buffer_init(&conn.out, &worker.pool, 0)
    conn_replace(conn, &parting.conn, CONN_PARTING)
    parting.conn.out = out
    parting.left = bytes_left(&parting.conn)
    parting.moved_ms = worker.now_ms
    conn_deadline(&parting.conn, LOOK_MS)
    count(worker.counters, COUNT_RESETS_LATE, 1)


cdef void parting_ready(Conn *conn) noexcept nogil:
    if conn.flags & CONN_WRITABLE and conn_owed(conn):
        conn_flush_out(conn)
    if conn.flags & CONN_BROKEN:
        conn_close(conn)


cdef void parting_look(Conn *conn) noexcept nogil:
    cdef Parting *parting = <Parting *>conn
    cdef Worker *worker = conn.worker
    cdef uint64_t left = bytes_left(conn)
    if left < parting.left:
        parting.left = left
        parting.moved_ms = worker.now_ms
    if left == 0 or worker.now_ms - parting.moved_ms >= worker.options.reader_timeout_ms:
        conn_close(conn)
        return
    conn_deadline(conn, LOOK_MS)


cdef void parting_sent(Conn *conn) noexcept nogil:
    pass


cdef void parting_release(Conn *conn) noexcept nogil:
    free(conn)
