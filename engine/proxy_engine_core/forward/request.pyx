# Request heads: read, parsed, routed, and put on a stream. See request.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport buffer_append, buffer_consume, buffer_head, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_BAD_REQUESTS, COUNT_MEMORY_REFUSED, COUNT_CONNECTIONS_USED_UP, COUNT_MEMORY_ERRORS,
    COUNT_REQUESTS_QUEUED,
    COUNT_VISITOR_MOVES_EXHAUSTED, count,
)
from proxy_engine_core.forward.admission cimport admit_device, admit_visitor
from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED, find_client
from proxy_engine_core.forward.clock cimport (
    transaction_deadline, upload_starts, visitor_rest_deadline,
)
from proxy_engine_core.forward.move cimport MOVES_MAX, visitor_move
from proxy_engine_core.forward.pool cimport (
    pool_is_full, pool_stop_waiting, pool_take, pool_wait,
)
from proxy_engine_core.forward.request_id cimport REQUEST_ID_SIZE, request_id_write
from proxy_engine_core.forward.retry cimport is_idempotent, retry_keep_head
from proxy_engine_core.forward.route cimport (
    ROUTE_KEY_SIZE_MAX, Route, route_links, route_table_find,
)
from proxy_engine_core.forward.transaction cimport (
    LOG_HOST_SIZE_MAX, LOG_METHOD_SIZE_MAX, LOG_PATH_SIZE_MAX, LOG_RETRIED, LOG_REUSED,
    VISITOR_ACTIVE, VISITOR_AUTH, VISITOR_OUT_HIGH, VISITOR_WAITING, HttpStream, ServerRole,
    Transaction, Visitor, server_of, transaction_begin, transaction_fail,
    visitor_close, visitor_finish,
)
from proxy_engine_core.http1.chunked cimport chunk_reader_init
from proxy_engine_core.http1.head cimport (
    BODY_CHUNKED, BODY_NONE, HEAD_ACCEPTS_HTML, HEAD_EXPECT_CONTINUE, HEAD_KEEP_ALIVE,
    HEAD_ERROR_LINE_TOO_LONG, HEAD_ERROR_TOO_LARGE, HEAD_UPGRADE,
    Head, Span, head_error_reason, head_error_status, head_error_text, head_find_end,
    request_body_framing, request_head_parse, request_head_precheck,
)
from proxy_engine_core.http1.rewrite cimport (
    RequestRewrite, request_head_bound, request_head_write,
)
from proxy_engine_core.io.conn cimport (
    conn_deadline, conn_recv, conn_requeue, conn_stop_waiting, conn_wait, gather_flush,
)
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_LINK, CONN_READABLE, Conn, Worker, conn_handle, handle_worker, worker_conn,
    worker_random,
)
from proxy_engine_core.link.link cimport Link, link_of
from proxy_engine_core.link.output cimport link_is_full, link_touch
from proxy_engine_core.yamux.send cimport yamux_stream_commit, yamux_stream_reserve
from proxy_engine_core.forward.body cimport body_too_big, send_body
from proxy_engine_core.forward.link_request cimport ask_control_plane, asks_for_link

cdef enum:
    HEAD_READ_SIZE = 16 * 1024            # bytes read while a head is expected
    OPENING_MAX = 1024                    # visitors waiting for a stream of one link
    IDLE_UNSAFE_DIVISOR = 2               # unsafe methods avoid streams idle half the limit


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
        elif received == 0 and buffer_size(&conn.out):
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


cdef void new_request_id(Visitor *visitor) noexcept nogil:
    request_id_write(server_of(visitor.conn.worker), visitor.transaction.request_id)
    visitor.transaction.request_id_size = REQUEST_ID_SIZE


cdef uint32_t copy_span(
    uint8_t *target, uint32_t size_max, const Head *head, const Span *span
) noexcept nogil:
    cdef uint32_t size = span.size if span.size < size_max else size_max
    memcpy(target, head.bytes + span.start, size)
    return size


cdef void describe(Visitor *visitor, Head *head) noexcept nogil:
    """What the log and our own answers need, while the head's bytes are still there."""
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    transaction.method = head.method
    transaction.minor_version = head.minor_version
    transaction.keep_alive = head.flags & HEAD_KEEP_ALIVE
    if (
        worker.options.connection_requests_max
        and visitor.requests >= worker.options.connection_requests_max
        and transaction.keep_alive
    ):
        transaction.keep_alive = False
        if not transaction.is_device_admitted:   # else it waited, and was counted before
            count(worker.counters, COUNT_CONNECTIONS_USED_UP, 1)
    transaction.accepts_html = head.flags & HEAD_ACCEPTS_HTML
    transaction.method_size = <uint8_t>copy_span(
        transaction.method_name, LOG_METHOD_SIZE_MAX, head, &head.method_name
    )
    transaction.host_size = <uint8_t>copy_span(
        transaction.host, LOG_HOST_SIZE_MAX, head, &head.host
    )
    transaction.path_size = <uint16_t>copy_span(
        transaction.path, LOG_PATH_SIZE_MAX, head, &head.path
    )
    if visitor.address_key == CLIENT_KEY_TRUSTED:
        find_client(visitor, head)
    if transaction.request_id_size:
        return                            # waiting or retried: keeps its first id
    if head.request_id.size:
        transaction.request_id_size = <uint16_t>copy_span(
            transaction.request_id, sizeof(transaction.request_id), head, &head.request_id
        )
    else:
        new_request_id(visitor)


cdef Route *find_route(ServerRole *role, const Head *head) noexcept nogil:
    cdef uint8_t key[ROUTE_KEY_SIZE_MAX]
    cdef const uint8_t *source
    cdef uint32_t size, index
    cdef uint8_t byte
    cdef Route *route
    if head.tunnel.size:
        source = head.bytes + head.tunnel.start
        size = head.tunnel.size
    else:
        source = head.bytes + head.host.start
        size = head.host.size
    if size + 5 <= ROUTE_KEY_SIZE_MAX:
        if head.tunnel.size:
            memcpy(key, b"name:", 5)
        else:
            memcpy(key, b"host:", 5)
        for index in range(size):
            byte = source[index]
            key[5 + index] = byte + 32 if c'A' <= byte <= c'Z' else byte
        route = route_table_find(&role.routes, key, size + 5)
        # A tunnel asked for by name is never quietly swapped for another.
        if route != NULL or head.tunnel.size:
            return route
    return route_table_find(&role.routes, b"default", 7)


cdef Link *live_link(Worker *worker, const Route *route, uint64_t last_choice) noexcept nogil:
    cdef const uint64_t *links = route_links(route)
    cdef uint32_t start = any_of(worker, route.link_count)
    cdef uint32_t index
    cdef Conn *conn
    cdef Link *found = NULL
    for index in range(route.link_count):
        conn = worker_conn(worker, links[(start + index) % route.link_count])
        if (
            conn != NULL and conn.kind == CONN_LINK and not (<Link *>conn).is_closing
            and not (<Link *>conn).is_draining
            and not (<Link *>conn).session.go_away_received
        ):
            found = <Link *>conn
            if conn_handle(conn) != last_choice:
                break
    return found


cdef uint32_t any_of(Worker *worker, uint32_t how_many) noexcept nogil:
    return <uint32_t>(worker_random(worker) % how_many) if how_many > 1 else 0


cdef int other_worker(Worker *worker, const Route *route) noexcept nogil:
    cdef const uint64_t *links = route_links(route)
    cdef uint32_t start = any_of(worker, route.link_count)
    cdef uint32_t index, other
    for index in range(route.link_count):
        other = handle_worker(links[(start + index) % route.link_count])
        if other != worker.index and other < worker.crew.worker_count:
            return <int>other
    return -1


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
    if buffer_size(&conn.out):
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
    cdef int status, other
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
    transaction.route = route.id
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
    status = admit_device(visitor, link)
    if status != 0:
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        if status == 429:
            transaction_fail(visitor, 429, b"device_rate", b"Too many requests for this device.")
        else:
            transaction_fail(visitor, 503, b"device_busy", b"The device is busy with others.")
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
    http = NULL
    if link.opening_first == NULL or link.opening_first == visitor:
        http = take_stream(visitor, link, route, head, &rewrite)
        if http == NULL and not pool_is_full(link):
            no_memory(visitor)
            return True
    if http == NULL:
        visitor.state = VISITOR_WAITING
        if not wait_for_stream(visitor, link):
            request_overloaded(visitor)
            return True
        return False
    transaction.is_waiting = False
    pool_stop_waiting(visitor)
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


cdef bint wait_for_stream(Visitor *visitor, Link *link) noexcept nogil:
    if visitor.opening_link == NULL:
        if link.opening_count >= OPENING_MAX:
            return False
        pool_wait(link, visitor)
        count(visitor.conn.worker.counters, COUNT_REQUESTS_QUEUED, 1)
    start_waiting(visitor)
    return True


cdef void start_waiting(Visitor *visitor) noexcept nogil:
    # However often the request is looked at again.
    if not visitor.transaction.is_waiting:
        visitor.transaction.is_waiting = True
        conn_deadline(&visitor.conn, visitor.conn.worker.options.open_timeout_ms)


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


cdef void request_overloaded(Visitor *visitor) noexcept nogil:
    # Its head is still in our input, so the connection does not go on.
    visitor.transaction.request_done = False
    transaction_fail(
        visitor, 503, b"overloaded", b"The device has no room for another request now."
    )


cdef void no_memory(Visitor *visitor) noexcept nogil:
    # As above.
    visitor.transaction.request_done = False
    transaction_fail(visitor, 503, b"no_memory", b"The proxy is out of memory.")


cdef HttpStream *take_stream(
    Visitor *visitor, Link *link, const Route *route, Head *head, RequestRewrite *rewrite
) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef uint32_t idle_divisor = 1
    rewrite.address = <const uint8_t *>visitor.address
    rewrite.address_size = visitor.address_size
    rewrite.request_id = transaction.request_id
    rewrite.request_id_size = transaction.request_id_size
    rewrite.is_tls = False
    rewrite.is_trusted = visitor.address_key == CLIENT_KEY_TRUSTED
    if transaction.log_flags & LOG_RETRIED:
        idle_divisor = 0
    elif not is_idempotent(transaction.method):
        idle_divisor = IDLE_UNSAFE_DIVISOR
    return pool_take(link, route, request_head_bound(head, rewrite), idle_divisor)


cdef bint forward_head(
    Visitor *visitor, HttpStream *http, Head *head, const RequestRewrite *rewrite
) noexcept nogil:
    """Put the rewritten head on the stream; False: no memory, the transaction has ended."""
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    cdef uint8_t *place = yamux_stream_reserve(http.stream, request_head_bound(head, rewrite))
    transaction.http = http
    transaction.link = link_of(http.stream)
    transaction.device = transaction.link.device
    http.visitor = visitor
    link_touch(transaction.link)
    if place == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        no_memory(visitor)
        return False
    yamux_stream_commit(http.stream, request_head_write(place, head, rewrite))
    transaction.sent_us = worker.now_us
    transaction.wants_upgrade = head.flags & HEAD_UPGRADE
    transaction.request_remaining = head.content_length
    if transaction.request_framing == BODY_CHUNKED:
        chunk_reader_init(&transaction.request_chunks, False)
    if http.is_reused:
        transaction.log_flags |= LOG_REUSED
    if not transaction.request_done and not head.flags & HEAD_EXPECT_CONTINUE:
        upload_starts(transaction, worker)
    retry_keep_head(visitor, head)
    visitor.state = VISITOR_ACTIVE
    transaction_deadline(visitor)
    return True
