# See request.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t

from proxy_engine_core.buffer cimport buffer_append, buffer_consume, buffer_head, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_BAD_REQUESTS, COUNT_MEMORY_REFUSED, COUNT_MEMORY_ERRORS, COUNT_VISITOR_MOVES_EXHAUSTED,
    count,
)
from proxy_engine_core.forward.admission cimport Refusal, admit_device, admit_visitor
from proxy_engine_core.forward.body cimport body_too_big, send_body
from proxy_engine_core.forward.clock cimport visitor_rest_deadline
from proxy_engine_core.forward.describe cimport describe, new_request_id
from proxy_engine_core.forward.dispatch cimport (
    forward_head, request_no_memory, request_overloaded, start_waiting, take_stream,
    wait_for_stream,
)
from proxy_engine_core.forward.gate cimport gate_passes
from proxy_engine_core.forward.https cimport (
    HTTPS_LOCATION_SIZE_MAX, https_answer, https_is_wanted,
)
from proxy_engine_core.forward.link_request cimport ask_control_plane, asks_for_link
from proxy_engine_core.forward.move cimport MOVES_MAX, visitor_move
from proxy_engine_core.forward.pace cimport pace_newcomer
from proxy_engine_core.forward.policy cimport (
    POLICY_EDITS_REQUEST, POLICY_EDITS_RESPONSE, policy_hold,
)
from proxy_engine_core.forward.pool cimport pool_is_full, pool_stop_waiting
from proxy_engine_core.forward.reply cimport Reply
from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.routing cimport find_route, live_link, other_worker
from proxy_engine_core.forward.transaction cimport (
    VISITOR_AUTH, VISITOR_OUT_HIGH, VISITOR_WAITING, HttpStream, ServerRole, Transaction, Visitor,
    server_of, transaction_answer, transaction_begin, transaction_fail, transaction_routed,
    visitor_close, visitor_finish,
)
from proxy_engine_core.http1.edit cimport RequestEdit
from proxy_engine_core.http1.head cimport (
    BODY_NONE, HEAD_ERROR_LINE_TOO_LONG, HEAD_ERROR_TOO_LARGE, Head, head_error_reason,
    head_error_status, head_error_text, head_find_end, request_body_framing, request_head_parse,
    request_head_precheck,
)
from proxy_engine_core.http1.rewrite cimport RequestRewrite, came_by_https
from proxy_engine_core.io.conn cimport (
    conn_deadline, conn_owed, conn_recv, conn_requeue, conn_stop_waiting, conn_wait, gather_flush,
)
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.worker cimport CONN_BROKEN, CONN_READABLE, Conn, Worker, conn_handle
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.link.output cimport link_is_full

cdef enum:
    HEAD_READ_SIZE = 16 * 1024            # bytes read while a head is expected


cdef void read_head(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Conn *conn = &visitor.conn
    cdef int64_t received
    cdef uint32_t size, head_size
    if buffer_size(&conn.out) >= VISITOR_OUT_HIGH:
        return                            # a slow reader pays before it asks again
    if buffer_size(&visitor.input):
        # Pipelined or partial: look at what is there before reading more.
        if use_input(visitor):
            return
    if not conn.flags & CONN_READABLE:
        return
    received = conn_recv(conn, worker.scratch, HEAD_READ_SIZE)
    if received == -EAGAIN:
        return
    if received <= 0:
        if visitor.transaction != NULL:
            transaction_fail(visitor, 0, b"visitor_gone", b"")
        elif received == 0 and conn_owed(conn):
            visitor_finish(visitor)       # it asks for no more, and still takes its answer
        else:
            visitor_close(visitor)
        return
    size = <uint32_t>received
    if buffer_size(&visitor.input) == 0:
        head_size = head_find_end(worker.scratch, size, &visitor.scanned)
        if head_size:
            # The usual case: a whole head in one read, used where it stands.
            visitor.scanned = 0
            if not use_head(visitor, worker.scratch, head_size, size):
                keep_input(visitor, size)
            return
    if keep_input(visitor, size) and not use_input(visitor) and conn.flags & CONN_READABLE:
        conn_requeue(conn)


cdef bint keep_input(Visitor *visitor, uint32_t size) noexcept nogil:
    """Keep `size` bytes of the worker's scratch; False: no memory, the visitor is closed."""
    if buffer_append(&visitor.input, visitor.conn.worker.scratch, size) == 0:
        return True
    count(visitor.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
    visitor_close(visitor)
    return False


cdef bint use_input(Visitor *visitor) noexcept nogil:
    """Go on with the head in visitor.input; True: it is dealt with, False: read more."""
    cdef uint8_t *bytes = buffer_head(&visitor.input)
    cdef uint32_t size = buffer_size(&visitor.input)
    cdef uint32_t head_size = head_find_end(bytes, size, &visitor.scanned)
    cdef int error
    if head_size:
        visitor.scanned = 0
        use_head(visitor, bytes, head_size, 0)
        return True
    error = request_head_precheck(bytes, size)
    if error == 0 and size > visitor.conn.worker.options.head_size_max:
        error = HEAD_ERROR_TOO_LARGE
    if error < 0:
        refuse_head(visitor, error)
        return True
    # The clock of a slow head starts once and is not reset by more bytes.
    if visitor.conn.timer.deadline_ms > (
        visitor.conn.worker.now_ms + visitor.conn.worker.options.head_timeout_ms
    ):
        conn_deadline(&visitor.conn, visitor.conn.worker.options.head_timeout_ms)
    return False


cdef void refuse_head(Visitor *visitor, int error) noexcept nogil:
    cdef Transaction *transaction = transaction_begin(visitor)
    count(visitor.conn.worker.counters, COUNT_BAD_REQUESTS, 1)
    if transaction == NULL:
        visitor_close(visitor)
        return
    if transaction.request_id_size == 0:
        new_request_id(visitor)
    transaction_fail(
        visitor, head_error_status(error), head_error_reason(error), head_error_text(error)
    )


cdef bint move_on(
    Visitor *visitor, uint32_t other, const uint8_t *bytes, uint32_t size
) noexcept nogil:
    """To the worker where the tunnel's link is, once earlier answers are out. As use_head()."""
    cdef Conn *conn = &visitor.conn
    cdef Worker *worker = conn.worker
    pool_stop_waiting(visitor)
    conn_stop_waiting(conn)
    if worker.gather.conn == conn:
        gather_flush(worker)
    if conn_owed(conn):
        visitor.state = VISITOR_WAITING   # for the socket: its edge makes us look again
        visitor_rest_deadline(visitor)
        return False
    if size == 0:
        bytes = buffer_head(&visitor.input)
        size = buffer_size(&visitor.input)
    if not visitor_move(visitor, other, bytes, size):
        visitor.transaction.request_done = False      # the head is still in our input
        transaction_fail(visitor, 503, b"no_memory", b"The proxy is out of memory.")
    return True


cdef void send_to_https(
    Visitor *visitor, const Head *head, uint8_t *bytes, uint32_t head_size, uint32_t size
) noexcept nogil:
    cdef char line[HTTPS_LOCATION_SIZE_MAX]
    cdef Reply reply
    https_answer(visitor, head, line, &reply)
    if visitor.transaction.request_done:
        take_head_off(visitor, bytes, head_size, size)
    transaction_answer(visitor, &reply)


cdef bint use_head(
    Visitor *visitor, uint8_t *bytes, uint32_t head_size, uint32_t size
) noexcept nogil:
    """One complete head. `size` > 0: it stands in the worker's scratch with `size` bytes in
    all; 0: it stands in visitor.input. False: keep the scratch's bytes, it must wait."""
    cdef Worker *worker = visitor.conn.worker
    cdef ServerRole *role = server_of(worker)
    cdef Head *head = &role.head
    cdef Transaction *transaction
    cdef Route *route
    cdef Link *link
    cdef HttpStream *http
    cdef RequestRewrite rewrite
    cdef RequestEdit edit
    cdef Refusal refusal
    cdef Reply reply
    cdef int other
    cdef int error = request_head_parse(head, bytes, head_size)
    if error == 0:
        error = check_size(worker, head)
    if error < 0:
        refuse_head(visitor, error)
        return True
    transaction = transaction_begin(visitor)
    if transaction == NULL:
        visitor_close(visitor)
        return True
    describe(visitor, head)
    transaction.bytes_in = head_size
    transaction.request_size = 0
    transaction.request_framing = <uint8_t>request_body_framing(head)
    transaction.request_done = transaction.request_framing == BODY_NONE
    if transaction.moves == 0 and not transaction.is_admitted and not admit_visitor(visitor):
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        transaction_fail(
            visitor, 429, b"visitor_rate", b"Too many requests from this address."
        )
        return True
    if worker.pressure >= PRESSURE_WORK:
        count(worker.counters, COUNT_MEMORY_REFUSED, 1)
        transaction.request_done = False  # and the connection ends: it is memory too
        transaction_fail(visitor, 503, b"memory_short", b"The proxy is short of memory.")
        return True
    if https_is_wanted(visitor):
        send_to_https(visitor, head, bytes, head_size, size)
        return True
    if asks_for_link(head):
        ask_control_plane(visitor, bytes, head_size)
        if visitor.state == VISITOR_AUTH:
            take_head_off(visitor, bytes, head_size, size)
        return True
    route = find_route(role, head)
    if route == NULL:
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        transaction_fail(visitor, 404, b"unknown_tunnel", b"There is no such tunnel here.")
        return True
    transaction_routed(worker, transaction, route)
    rewrite.edit = NULL
    if route.policy != NULL:
        if not gate_passes(visitor, route.policy, head, &edit, &reply):
            if transaction.request_done:
                take_head_off(visitor, bytes, head_size, size)
            transaction_answer(visitor, &reply)
            return True
        if route.policy.flags & POLICY_EDITS_REQUEST:
            rewrite.edit = &edit
    link = live_link(worker, route, transaction.refused_by)
    if link == NULL or conn_handle(&link.conn) == transaction.refused_by:
        other = other_worker(worker, route)
        if other >= 0:
            if transaction.moves < MOVES_MAX:
                return move_on(visitor, <uint32_t>other, bytes, size)
            count(worker.counters, COUNT_VISITOR_MOVES_EXHAUSTED, 1)
    if link == NULL:
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        transaction_fail(
            visitor, 503, b"device_offline", b"The device behind this tunnel is not connected."
        )
        return True
    if not admit_device(visitor, link, &refusal):
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        transaction_fail(visitor, refusal.status, refusal.reason, refusal.text)
        return True
    if (
        worker.options.body_size_max
        and head.content_length > <int64_t>worker.options.body_size_max
    ):
        body_too_big(visitor)
        return True
    if visitor.opening_link != link:
        pool_stop_waiting(visitor)        # it was sent to another link meanwhile
    if link_is_full(link, NULL):
        conn_wait(&visitor.conn, &link.waiting)
        start_waiting(visitor)
        return False
    if transaction.quota != NULL and pace_newcomer(visitor):
        start_waiting(visitor)
        return False
    http = NULL
    if link.opening_first == NULL or link.opening_first == visitor:
        http = take_stream(visitor, link, route, head, &rewrite)
        if http == NULL and not pool_is_full(link):
            request_no_memory(visitor)
            return True
    if http == NULL:
        visitor.state = VISITOR_WAITING
        if not wait_for_stream(visitor, link):
            request_overloaded(visitor)
            return True
        return False
    transaction.is_waiting = False
    pool_stop_waiting(visitor)
    if route.policy != NULL and route.policy.flags & POLICY_EDITS_RESPONSE:
        policy_hold(route.policy)
        transaction.policy = route.policy
        transaction.is_https = came_by_https(head, &rewrite)
    if not forward_head(visitor, http, head, &rewrite):
        return True
    take_head_off(visitor, bytes, head_size, size)
    send_body(visitor)
    return True


cdef int check_size(Worker *worker, const Head *head) noexcept nogil:
    # The configured limits, where they are below those of the parser.
    cdef uint32_t line_size = head.size - 4            # without its CRLF, as the parser counts
    if head.field_count:
        line_size = head.fields[0].name.start - 2
    if line_size > worker.options.request_line_size_max:
        return HEAD_ERROR_LINE_TOO_LONG
    if (
        head.size > worker.options.head_size_max
        or head.field_count > worker.options.head_fields_max
    ):
        return HEAD_ERROR_TOO_LARGE
    return 0


cdef void take_head_off(
    Visitor *visitor, uint8_t *bytes, uint32_t head_size, uint32_t size
) noexcept nogil:
    # The head is used: what came behind it in the scratch is kept.
    if size == 0:
        buffer_consume(&visitor.input, head_size)
    elif size > head_size and buffer_append(
        &visitor.input, bytes + head_size, size - head_size
    ) < 0:
        count(visitor.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        visitor.conn.flags |= CONN_BROKEN
        conn_requeue(&visitor.conn)
