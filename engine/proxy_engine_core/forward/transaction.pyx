# How a request on a visitor's connection begins and ends. See transaction.pxd.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp

from proxy_engine_core.buffer cimport buffer_free, buffer_init, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_REQUESTS, COUNT_REQUESTS_ABORTED,
    COUNT_RESPONSES, COUNT_RESPONSES_LOCAL, count,
)
from proxy_engine_core.forward.clock cimport visitor_rest_deadline
from proxy_engine_core.forward.direct_pool cimport DIRECT_PARTS, DIRECT_RESET, direct_release
from proxy_engine_core.forward.log cimport log_write
from proxy_engine_core.forward.pace cimport pace_spend, pace_stop
from proxy_engine_core.forward.policy cimport policy_release
from proxy_engine_core.forward.pool cimport http_stream_release, pool_put, pool_stop_waiting
from proxy_engine_core.forward.reply cimport Reply, reply_write
from proxy_engine_core.forward.route_stats cimport route_stats_leave, route_stats_of
from proxy_engine_core.http1.head cimport BODY_CLOSE, METHOD_HEAD
from proxy_engine_core.http1.rewrite cimport REFRAME_CLOSE
from proxy_engine_core.io.conn cimport (
    conn_abort, conn_close, conn_finish_writing, conn_owed, conn_recv, conn_requeue,
    conn_stop_waiting, gather_flush,
)
from proxy_engine_core.io.parting cimport conn_part
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_HUP, CONN_READABLE, WORKER_SCRATCH_SIZE, Worker,
)
from proxy_engine_core.quota cimport quota_drop, quota_leave
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_CANCEL, YAMUX_STREAM_FIN_RECEIVED, yamux_stream_is_closed,
)
from proxy_engine_core.yamux.stream cimport yamux_stream_settle
from proxy_engine_core.link.output cimport link_touch

cdef enum:
    # Bytes read off a refused visitor: what its and our kernel may hold of an upload that
    # was under way. The linger time bounds it as well.
    LINGER_SIZE_MAX = 4 * 1024 * 1024


cdef Transaction *transaction_begin(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    if transaction != NULL:
        return transaction
    transaction = transaction_new(visitor)
    if transaction != NULL:
        visitor.requests += 1
        count(visitor.conn.worker.counters, COUNT_REQUESTS, 1)
    return transaction


cdef Transaction *transaction_new(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef ServerRole *role = server_of(worker)
    cdef Transaction *transaction = role.free_transactions
    if transaction != NULL:
        role.free_transactions = <Transaction *>transaction.http
    else:
        transaction = <Transaction *>calloc(1, sizeof(Transaction))
        if transaction == NULL:
            count(worker.counters, COUNT_MEMORY_ERRORS, 1)
            return NULL
    # The text arrays behind have their own sizes and need no clearing.
    memset(transaction, 0, <size_t>&(<Transaction *>NULL).method_name)
    buffer_init(&transaction.kept, &worker.pool, 0)
    buffer_init(&transaction.response_head, &worker.pool, 0)
    transaction.started_us = worker.now_us
    visitor.transaction = transaction
    role.active += 1
    return transaction


cdef void transaction_set_tcp(
    Transaction *transaction, const uint8_t *tunnel, uint32_t size
) noexcept nogil:
    transaction.is_tcp = True
    transaction.head_sent = True          # no answers of our own: it ends, or is aborted
    transaction.log_flags |= LOG_TCP | LOG_TUNNEL
    transaction.method_size = 3
    memcpy(transaction.method_name, b"TCP", 3)
    transaction.host_size = <uint8_t>size
    memcpy(transaction.host, tunnel, size)
    transaction.path_size = 0


cdef RouteStats *stats_of(Worker *worker, Route *route) noexcept nogil:
    if route.stats == NULL:
        route.stats = route_stats_of(route.counts, worker.index)
    if route.stats == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return &server_of(worker).unrouted
    return route.stats


cdef void transaction_free(Visitor *visitor) noexcept nogil:
    cdef ServerRole *role = server_of(visitor.conn.worker)
    cdef Transaction *transaction = visitor.transaction
    if transaction.quota != NULL:
        pace_stop(visitor)
        quota_leave(transaction.quota)
    if transaction.joined_by != NULL:
        quota_drop(transaction.joined_by)
    buffer_free(&transaction.kept)
    buffer_free(&transaction.response_head)
    if transaction.policy != NULL:
        policy_release(transaction.policy)
    if transaction.stats != NULL:
        route_stats_leave(transaction.stats)           # it goes on elsewhere
    visitor.bytes_passed += transaction.bytes_out
    visitor.transaction = NULL
    transaction.http = <HttpStream *>role.free_transactions
    role.free_transactions = transaction
    role.active -= 1


cdef void server_free_transactions(ServerRole *role) noexcept nogil:
    cdef Transaction *transaction
    while role.free_transactions != NULL:
        transaction = role.free_transactions
        role.free_transactions = <Transaction *>transaction.http
        free(transaction)


cdef void next_request(Visitor *visitor) noexcept nogil:
    visitor.state = VISITOR_HEAD
    visitor.scanned = 0
    visitor_rest_deadline(visitor)
    if buffer_size(&visitor.input) or visitor.conn.flags & (
        CONN_READABLE | CONN_HUP | CONN_BROKEN
    ):
        conn_requeue(&visitor.conn)


cdef void transaction_finish(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef HttpStream *http = transaction.http
    cdef Worker *worker = visitor.conn.worker
    cdef bint keep_alive = transaction.keep_alive and transaction.request_done
    cdef bint is_last = transaction.is_last and transaction.request_done
    transaction.response_state = RESPONSE_DONE
    gather_flush(worker)
    transaction.http = NULL
    if transaction.quota != NULL:
        pace_spend(visitor, http.stream.unconsumed)
    # What a slow visitor still owes is in its own output now, bounded by one window;
    # the stream is whole again for the next request.
    yamux_stream_settle(http.stream)
    link_touch(transaction.link)
    if (
        transaction.request_done and transaction.target_keep_alive
        and not http.stream.flags & YAMUX_STREAM_FIN_RECEIVED
        and not yamux_stream_is_closed(http.stream)
    ):
        pool_put(http)
    else:
        http_stream_release(http, YAMUX_RESET_CANCEL)
    count(worker.counters, COUNT_RESPONSES, 1)
    log_write(visitor, b"")
    transaction_free(visitor)
    if keep_alive and not worker.is_draining:
        next_request(visitor)
    elif is_last and has_all(visitor):
        visitor_close(visitor)
    else:
        visitor_finish(visitor)


cdef inline bint has_all(const Visitor *visitor) noexcept nogil:
    # Our answer is with the kernel, and nothing of the visitor's is left to be read: closing
    # sends no RST that could overtake it, so there is nothing to linger for.
    return (
        conn_owed(&visitor.conn) == 0 and buffer_size(&visitor.input) == 0
        and visitor.conn.tls == NULL and not visitor.conn.flags & (CONN_READABLE | CONN_BROKEN)
    )


cdef void transaction_fail(
    Visitor *visitor, int status, const char *reason, const char *text
) noexcept nogil:
    cdef Reply reply
    memset(&reply, 0, sizeof(Reply))
    reply.status = status
    reply.reason = reason
    reply.text = text
    transaction_answer(visitor, &reply)


cdef void transaction_answer(Visitor *visitor, Reply *reply) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    cdef HttpStream *http = transaction.http
    # One side broke off; what it said before is said.
    cdef bint is_late = strcmp(reply.reason, b"target_lost") == 0 or (
        strcmp(reply.reason, b"visitor_gone") == 0
    )
    if transaction.data != NULL:
        direct_release(transaction.data, DIRECT_PARTS if is_late else DIRECT_RESET)
        transaction.data = NULL
    if http != NULL:
        transaction.http = NULL
        http.visitor = NULL
        if transaction.quota != NULL:
            pace_spend(visitor, http.stream.unconsumed)
        http_stream_release(http, YAMUX_RESET_CANCEL)
    pool_stop_waiting(visitor)
    conn_stop_waiting(&visitor.conn)
    if (
        transaction.head_sent or reply.status == 0
        or visitor.conn.flags & (CONN_BROKEN | CONN_CLOSED)
    ):
        gather_flush(worker)
        transaction.log_flags |= LOG_ABORTED
        count(worker.counters, COUNT_REQUESTS_ABORTED, 1)
        log_write(visitor, reply.reason)
        # Never a clean end: what ends with the connection would look complete.
        if visitor.state == VISITOR_TUNNEL or transaction.is_tcp or transaction.head_sent and (
            transaction.reframe == REFRAME_CLOSE or transaction.response_framing == BODY_CLOSE
        ):
            if is_late:
                buffer_free(&visitor.input)
                conn_part(&visitor.conn)
            else:
                conn_abort(&visitor.conn)
        transaction_free(visitor)
        visitor_close(visitor)
        return
    reply.request_id = transaction.request_id
    reply.request_id_size = transaction.request_id_size
    reply.is_html = transaction.accepts_html
    reply.keep_alive = (
        transaction.keep_alive and transaction.request_done and not worker.is_draining
    )
    reply.is_head = transaction.method == METHOD_HEAD
    transaction.status = <unsigned short>reply.status
    transaction.log_flags |= LOG_LOCAL
    transaction.head_sent = True
    transaction.bytes_out += reply_write(&visitor.conn, reply)
    count(worker.counters, COUNT_RESPONSES_LOCAL, 1)
    log_write(visitor, reply.reason)
    transaction_free(visitor)
    if reply.keep_alive:
        next_request(visitor)
    else:
        visitor_finish(visitor)


# --- the end of a connection --------------------------------------------------------------

cdef void visitor_close(Visitor *visitor) noexcept nogil:
    if visitor.conn.flags & CONN_CLOSED:
        return
    pool_stop_waiting(visitor)
    if visitor.transaction != NULL:
        if visitor.transaction.http != NULL:
            visitor.transaction.http.visitor = NULL
            http_stream_release(visitor.transaction.http, YAMUX_RESET_CANCEL)
        if visitor.transaction.data != NULL:
            direct_release(visitor.transaction.data, DIRECT_RESET)
        transaction_free(visitor)
    buffer_free(&visitor.input)
    conn_close(&visitor.conn)


cdef void visitor_finish(Visitor *visitor) noexcept nogil:
    visitor.state = VISITOR_LINGER
    buffer_free(&visitor.input)
    visitor_rest_deadline(visitor)
    visitor_linger(visitor)


cdef void visitor_linger(Visitor *visitor) noexcept nogil:
    # Closing with unread input would send RST, which can overtake our answer and destroy
    # it; so the answer goes out, then what the visitor still sends is read off.
    cdef Worker *worker = visitor.conn.worker
    cdef int64_t received
    if visitor.conn.flags & CONN_BROKEN:
        visitor_close(visitor)
        return
    if conn_owed(&visitor.conn):
        return
    conn_finish_writing(&visitor.conn)
    while visitor.conn.flags & CONN_READABLE:
        received = conn_recv(&visitor.conn, worker.scratch, WORKER_SCRATCH_SIZE)
        if received <= 0:
            break
        visitor.lingered += <uint32_t>received
        if visitor.lingered > LINGER_SIZE_MAX:
            visitor_close(visitor)
            return
    if visitor.conn.flags & CONN_HUP and not visitor.conn.flags & CONN_READABLE:
        visitor_close(visitor)
