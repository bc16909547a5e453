# See direct.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, strlen

from proxy_engine_core.atomic cimport counter_add
from proxy_engine_core.buffer cimport (
    buffer_consume, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_RESPONSES, COUNT_VISITOR_MOVES_EXHAUSTED, count,
)
from proxy_engine_core.forward.clock cimport transaction_deadline
from proxy_engine_core.forward.direct_pool cimport (
    DIRECT_ENDS, DirectPool, direct_lost, direct_pool_free, direct_put, direct_release, direct_take,
    ticket_redeem, ticket_worker,
)
from proxy_engine_core.forward.log cimport log_write
from proxy_engine_core.forward.move cimport MOVES_MAX, visitor_move
from proxy_engine_core.forward.pace cimport is_paced, pace_spend
from proxy_engine_core.forward.pool cimport pool_stop_waiting
from proxy_engine_core.forward.transaction cimport (
    VISITOR_DIRECT, DataConn, Transaction, Visitor, transaction_answered, transaction_count,
    transaction_fail, transaction_free, visitor_close,
)
from proxy_engine_core.http1.head cimport HEAD_UPGRADE, METHOD_GET, Head
from proxy_engine_core.io.conn cimport (
    conn_owed, conn_recv, conn_replace, conn_requeue, conn_stop_waiting, conn_write,
    gather_flush,
)
from proxy_engine_core.io.profile cimport Profile, profile_apply
from proxy_engine_core.io.relay cimport (
    RELAY_BROKEN, RELAY_DONE, RELAY_GOES_ON, RELAY_WAITS, relay_move,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_DATA, CONN_READABLE, Conn, Worker, conn_handle, worker_conn,
)
from proxy_engine_core.link.control cimport link_send_ended
from proxy_engine_core.link.link cimport DATA_NAME_SIZE, Link
from proxy_engine_core.wire cimport load_be64, store_be64
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_REFUSED, YAMUX_RESET_TARGET_LOST, YAMUX_RESET_TIMEOUT,
    YAMUX_RESET_UNKNOWN_TUNNEL, YAMUX_RESET_UNREACHABLE,
)

cdef enum:
    DATA_PATH_SIZE = 12

cdef const uint8_t *DATA_PATH = b"/_proxy/data"
cdef const char *ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Connection: Upgrade\r\n"
    b"Upgrade: proxy-engine-data\r\n\r\n"
)


cdef void direct_init_worker(Worker *worker) noexcept nogil:
    worker.ops[<int>CONN_DATA].ready = data_ready
    worker.ops[<int>CONN_DATA].timeout = data_ready       # it has none
    worker.ops[<int>CONN_DATA].flush = NULL
    worker.ops[<int>CONN_DATA].sent = data_sent
    worker.ops[<int>CONN_DATA].release = data_release


# --- from the device ------------------------------------------------------------------------

cdef bint asks_for_data(const Head *head) noexcept nogil:
    return (
        head.path.size == DATA_PATH_SIZE
        and memcmp(head.bytes + head.path.start, DATA_PATH, DATA_PATH_SIZE) == 0
    )


cdef void refuse(Visitor *visitor, int status, const char *reason, const char *text) noexcept nogil:
    visitor.transaction.keep_alive = False
    transaction_fail(visitor, status, reason, text)


cdef void data_arrive(
    Visitor *visitor, const Head *head, const uint8_t *bytes, uint32_t head_size
) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Link *link
    cdef int index = ticket_worker(worker, head)
    gather_flush(worker)
    if conn_owed(&visitor.conn) or not head.flags & HEAD_UPGRADE or head.method != METHOD_GET:
        refuse(visitor, 400, b"bad_upgrade", b"A data connection begins with its Upgrade.")
        return
    if index >= 0 and <uint32_t>index != worker.index:
        if visitor.transaction.moves >= MOVES_MAX:
            count(worker.counters, COUNT_VISITOR_MOVES_EXHAUSTED, 1)
        elif visitor_move(visitor, <uint32_t>index, bytes, head_size):
            return
        refuse(visitor, 503, b"no_memory", b"The proxy is out of memory.")
        return
    link = ticket_redeem(worker, head)
    if link == NULL:
        refuse(visitor, 403, b"bad_ticket", b"The ticket is not good, or not any more.")
        return
    become_data(visitor, link)


cdef void become_data(Visitor *visitor, Link *link) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef DataConn *data = <DataConn *>calloc(1, sizeof(DataConn))
    if data == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        refuse(visitor, 503, b"no_memory", b"The proxy is out of memory.")
        return
    transaction_free(visitor)             # as a link's request: no record of it
    buffer_init(&data.conn.out, &worker.pool, 0)
    conn_replace(&visitor.conn, &data.conn, CONN_DATA)
    direct_put(link, data)
    conn_write(&data.conn, <const uint8_t *>ACCEPTED, strlen(ACCEPTED))
    if conn_owed(&data.conn):
        direct_lost(data)


cdef void data_ready(Conn *conn) noexcept nogil:
    cdef DataConn *data = <DataConn *>conn
    if data.visitor != NULL:
        direct_run(data.visitor)
    elif conn.flags & (CONN_BROKEN | CONN_READABLE):
        direct_lost(data)                 # ended; or it speaks though nobody asked


cdef void data_sent(Conn *conn) noexcept nogil:
    pass


cdef void data_release(Conn *conn) noexcept nogil:
    free(conn)


# --- of a visitor -----------------------------------------------------------------------------

cdef bint direct_open(
    Visitor *visitor, Link *link, const Profile *profile, const uint8_t *preamble, uint32_t size
) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    cdef DataConn *data = direct_take(link, visitor)
    cdef uint8_t name[DATA_NAME_SIZE]
    if data == NULL:
        return False
    pool_stop_waiting(visitor)
    conn_stop_waiting(&visitor.conn)
    transaction.data = data
    transaction.link = link
    transaction.device = link.device
    transaction.is_waiting = False
    transaction.sent_us = worker.now_us
    visitor.state = VISITOR_DIRECT
    counter_add(&transaction.stats.connections, 1)
    data.down.awaits_word = True
    data.up.profile = profile
    data.down.profile = profile
    profile_apply(profile, visitor.conn.fd)
    profile_apply(profile, data.conn.fd)
    store_be64(name, conn_handle(&data.conn))
    conn_write(&data.conn, name, sizeof(name))
    conn_write(&data.conn, preamble, size)
    if buffer_size(&visitor.input):
        transaction.bytes_in += buffer_size(&visitor.input)
        if transaction.quota != NULL:
            pace_spend(visitor, buffer_size(&visitor.input))
        conn_write(&data.conn, buffer_head(&visitor.input), buffer_size(&visitor.input))
        buffer_consume(&visitor.input, buffer_size(&visitor.input))
    buffer_free(&visitor.input)
    transaction_deadline(visitor)
    direct_run(visitor)
    return True


cdef const char *refusal(uint8_t code) noexcept nogil:
    if code == YAMUX_RESET_REFUSED:
        return b"refused"
    if code == YAMUX_RESET_UNREACHABLE:
        return b"unreachable"
    if code == YAMUX_RESET_TIMEOUT:
        return b"target_timeout"
    if code == YAMUX_RESET_UNKNOWN_TUNNEL:
        return b"unknown_target"
    return b"target_lost"


cdef bint is_accepted(Visitor *visitor) noexcept nogil:
    """Read the device's answer; False: it has not come, or the visitor has ended."""
    cdef DataConn *data = visitor.transaction.data
    cdef uint8_t code = 0
    cdef int64_t received
    while not data.is_accepted:
        if not data.conn.flags & CONN_READABLE:
            return False
        received = conn_recv(
            &data.conn, data.answer + data.answer_size, sizeof(data.answer) - data.answer_size
        )
        if received == -EAGAIN:
            return False
        if received <= 0:
            code = YAMUX_RESET_TARGET_LOST
        else:
            code = data.answer[0]
            data.answer_size += <uint8_t>received
        if code != 0:
            transaction_fail(visitor, 0, refusal(code), b"")
            return False
        data.is_accepted = data.answer_size == sizeof(data.answer)
    if data.peer_name:
        return True
    data.peer_name = load_be64(data.answer + 1)
    transaction_answered(visitor.transaction, visitor.conn.worker.now_us)
    transaction_deadline(visitor)
    return True


cdef void direct_run(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef DataConn *data = transaction.data
    cdef uint64_t up_before = data.up.bytes
    cdef uint64_t down_before = data.down.bytes
    cdef int down = RELAY_BROKEN          # nothing comes before the target is connected
    cdef int up
    if is_paced(visitor):
        return                            # it is woken
    up = relay_move(&data.up, &visitor.conn, &data.conn)
    if is_accepted(visitor):
        down = relay_move(&data.down, &data.conn, &visitor.conn)
    elif visitor.conn.flags & CONN_CLOSED:
        return
    if data.up.bytes != up_before or data.down.bytes != down_before:
        transaction.bytes_in += data.up.bytes - up_before
        transaction.bytes_out += data.down.bytes - down_before
        transaction_count(visitor.conn.worker, transaction)
        if transaction.quota != NULL:
            pace_spend(
                visitor, <uint32_t>(data.up.bytes - up_before + data.down.bytes - down_before)
            )
        transaction_deadline(visitor)
    if up == RELAY_DONE and data.is_accepted and not data.has_word:
        data.has_word = True
        link_send_ended(data.link, data.peer_name)
        if visitor.conn.flags & CONN_CLOSED:
            return                        # the link ended of it
    if up == RELAY_DONE and down == RELAY_DONE:
        finish(visitor)
    elif visitor.conn.flags & CONN_BROKEN and up != RELAY_WAITS and up != RELAY_GOES_ON:
        transaction_fail(visitor, 0, b"visitor_gone", b"")
    elif data.conn.flags & CONN_BROKEN and down != RELAY_WAITS and down != RELAY_GOES_ON:
        transaction_fail(visitor, 0, b"target_lost", b"")
    elif up == RELAY_GOES_ON or down == RELAY_GOES_ON:
        conn_requeue(&visitor.conn)


cdef bint data_ended(Link *link, uint64_t name) noexcept nogil:
    cdef Conn *conn = worker_conn(link.conn.worker, name)
    if conn == NULL or conn.kind != CONN_DATA or (<DataConn *>conn).link != link:
        return False
    (<DataConn *>conn).down.awaits_word = False
    conn_requeue(conn)
    return True


cdef void finish(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    direct_release(transaction.data, DIRECT_ENDS)
    transaction.data = NULL
    count(visitor.conn.worker.counters, COUNT_RESPONSES, 1)
    log_write(visitor, b"")
    transaction_free(visitor)
    visitor_close(visitor)


cdef void direct_close(Link *link) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>link.direct
    if pool == NULL:
        return
    while pool.busy != NULL:
        transaction_fail(pool.busy.visitor, 502, b"link_lost", b"")
    direct_pool_free(link)
