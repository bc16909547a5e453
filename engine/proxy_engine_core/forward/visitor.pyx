# See transaction.pxd for the life of a request. Everything here runs from
# visitor_ready(): an edge, a grown window, room in the link, a free stream and a finished
# response all just requeue the connection, and ready() goes on where the state says.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, strlen

from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_AUTH_ASKED, COUNT_AUTH_REFUSED, COUNT_BAD_REQUESTS, COUNT_MEMORY_ERRORS,
    COUNT_REQUESTS_QUEUED, COUNT_TIMEOUTS, count,
)
from proxy_engine_core.events cimport EVENT_AUTH
from proxy_engine_core.forward.pool cimport pool_stop_waiting, pool_take, pool_wait
from proxy_engine_core.forward.route cimport ROUTE_KEY_SIZE_MAX, Route, route_table_find
from proxy_engine_core.forward.transaction cimport (
    LOG_HOST_SIZE_MAX, LOG_METHOD_SIZE_MAX, LOG_PATH_SIZE_MAX, LOG_RETRIED, LOG_REUSED,
    RESPONSE_HEAD, VISITOR_ACTIVE, VISITOR_AUTH, VISITOR_HEAD, VISITOR_LINGER, VISITOR_OUT_HIGH,
    VISITOR_TUNNEL, VISITOR_WAITING, HttpStream, ServerRole, Transaction, Visitor, server_of,
    transaction_begin, transaction_deadline, transaction_fail, transaction_finish,
    transaction_free, visitor_close,
    visitor_finish, visitor_linger, visitor_rest_deadline,
)
from proxy_engine_core.http1.chunked cimport (
    CHUNK_DATA, CHUNK_END, ChunkSpan, chunk_reader_init, chunk_reader_next,
)
from proxy_engine_core.http1.head cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, HEAD_ACCEPTS_HTML, HEAD_KEEP_ALIVE, HEAD_UPGRADE,
    METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_OTHER, METHOD_PUT, Head, Span,
    head_error_reason, head_error_status, head_error_text, head_find_end,
    request_body_framing, request_head_parse, request_head_precheck,
)
from proxy_engine_core.http1.rewrite cimport (
    RequestRewrite, request_head_bound, request_head_write,
)
from proxy_engine_core.io.conn cimport (
    conn_attach, conn_deadline, conn_finish_writing, conn_flush_out, conn_recv, conn_requeue, conn_wait, conn_write,
)
from proxy_engine_core.io.socket cimport (
    Address, address_port, address_text, socket_close, socket_reset_on_close, socket_tune,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_HUP, CONN_LINK, CONN_QUEUED, CONN_READABLE, CONN_VISITOR,
    WORKER_SCRATCH_SIZE, Conn, Worker, conn_handle, worker_conn, worker_emit, worker_random,
)
from proxy_engine_core.link cimport (
    Link, LinkSetup, link_establish, link_is_full, link_of, link_touch,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_STREAM_FIN_SENT, YamuxStream, yamux_stream_commit, yamux_stream_consume,
    yamux_stream_finish, yamux_stream_reserve, yamux_stream_send,
)

cdef enum:
    HEAD_READ_SIZE = 16 * 1024            # bytes read while a head is expected
    BODY_BUDGET = 256 * 1024              # body bytes moved before others get a turn
    LINK_PATH_SIZE = 12
    OPENING_MAX = 1024                    # visitors waiting for a stream of one link
    IDLE_SAFE_METHOD_DIVISOR = 2          # unsafe methods avoid streams idle half the limit

cdef const uint8_t *LINK_PATH = b"/_proxy/link"
cdef const char *HEX = "0123456789abcdef"


cdef void visitor_init_worker(Worker *worker) noexcept nogil:
    worker.on_accept = visitor_accept
    worker.ops[<int>CONN_VISITOR].ready = visitor_ready
    worker.ops[<int>CONN_VISITOR].timeout = visitor_timeout
    worker.ops[<int>CONN_VISITOR].flush = NULL
    worker.ops[<int>CONN_VISITOR].sent = visitor_sent
    worker.ops[<int>CONN_VISITOR].release = visitor_release


cdef void visitor_accept(Worker *worker, int fd, Address *peer) noexcept nogil:
    cdef Visitor *visitor = <Visitor *>calloc(1, sizeof(Visitor))
    if visitor == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        socket_close(fd)
        return
    buffer_init(&visitor.conn.out, &worker.pool, 0)
    buffer_init(&visitor.input, &worker.pool, 0)
    visitor.address_size = <uint8_t>address_text(peer, visitor.address)
    visitor.port = address_port(peer)
    socket_tune(fd, peer)
    if conn_attach(worker, &visitor.conn, fd, CONN_VISITOR) < 0:
        free(visitor)
        return
    conn_deadline(&visitor.conn, worker.options.keepalive_timeout_ms)


cdef void visitor_release(Conn *conn) noexcept nogil:
    # By worker_close_conns() a connection may get here with a request under way.
    cdef Visitor *visitor = <Visitor *>conn
    if visitor.transaction != NULL:
        transaction_free(visitor)
    buffer_free(&visitor.input)
    free(visitor)


cdef void visitor_ready(Conn *conn) noexcept nogil:
    cdef Visitor *visitor = <Visitor *>conn
    if buffer_size(&conn.out):
        conn_flush_out(conn)
    if conn.flags & CONN_BROKEN and visitor.state != VISITOR_LINGER:
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
    elif visitor.state == VISITOR_LINGER:
        visitor_linger(visitor)


cdef void visitor_sent(Conn *conn) noexcept nogil:
    # What the visitor's socket has taken may come again from the target.
    cdef Visitor *visitor = <Visitor *>conn
    cdef YamuxStream *stream
    cdef uint32_t owed = buffer_size(&conn.out)
    if visitor.transaction != NULL and visitor.transaction.http != NULL:
        stream = visitor.transaction.http.stream
        if stream.unconsumed > owed:
            yamux_stream_consume(stream, stream.unconsumed - owed)
            link_touch(visitor.transaction.link)
        if owed:
            transaction_deadline(visitor)
        return
    if visitor.transaction == NULL and buffer_size(&visitor.input) == 0:
        visitor_rest_deadline(visitor)
    if visitor.state == VISITOR_HEAD and owed < VISITOR_OUT_HIGH:
        conn_requeue(conn)


# --- heads --------------------------------------------------------------------------------

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
    # 128 bits: a random prefix of this worker and a counter, scattered.
    cdef ServerRole *role = server_of(visitor.conn.worker)
    cdef Transaction *transaction = visitor.transaction
    cdef uint64_t halves[2]
    cdef int index
    role.request_id_next += 1
    halves[0] = role.request_id_prefix
    halves[1] = role.request_id_next * <uint64_t>0x9E3779B97F4A7C15
    for index in range(32):
        transaction.request_id[index] = HEX[
            (halves[index >> 4] >> (60 - 4 * (index & 15))) & 15
        ]
    transaction.request_id_size = 32


cdef uint32_t copy_span(
    uint8_t *target, uint32_t size_max, const Head *head, const Span *span
) noexcept nogil:
    cdef uint32_t size = span.size if span.size < size_max else size_max
    memcpy(target, head.bytes + span.start, size)
    return size


cdef void describe(Visitor *visitor, Head *head) noexcept nogil:
    """What the log and our own answers need, while the head's bytes are still there."""
    cdef Transaction *transaction = visitor.transaction
    transaction.method = head.method
    transaction.minor_version = head.minor_version
    transaction.keep_alive = head.flags & HEAD_KEEP_ALIVE
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
    if transaction.request_id_size:
        return                            # waiting or retried: keeps its first id
    if head.request_id.size:
        transaction.request_id_size = <uint16_t>copy_span(
            transaction.request_id, sizeof(transaction.request_id), head, &head.request_id
        )
    else:
        new_request_id(visitor)


cdef bint asks_for_link(const Head *head) noexcept nogil:
    cdef const uint8_t *path = head.bytes + head.path.start
    if head.path.size < LINK_PATH_SIZE or memcmp(path, LINK_PATH, LINK_PATH_SIZE) != 0:
        return False
    return head.path.size == LINK_PATH_SIZE or path[LINK_PATH_SIZE] == c'?'


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


cdef Link *live_link(Worker *worker, const Route *route) noexcept nogil:
    # Replicas take turns by chance.
    cdef uint32_t start = 0
    cdef uint32_t index
    cdef Conn *conn
    if route.link_count > 1:
        start = <uint32_t>(worker_random(worker) % route.link_count)
    for index in range(route.link_count):
        conn = worker_conn(worker, route.links[(start + index) % route.link_count])
        if (
            conn != NULL and conn.kind == CONN_LINK and not (<Link *>conn).is_closing
            and not (<Link *>conn).is_draining
            and not (<Link *>conn).session.go_away_received
        ):
            return <Link *>conn
    return NULL


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
    cdef int error = request_head_parse(head, bytes, head_size)
    if error < 0:
        refuse_head(visitor, error)
        return True
    transaction = transaction_begin(visitor)
    if transaction == NULL:
        visitor_close(visitor)
        return True
    describe(visitor, head)
    transaction.bytes_in = head_size
    transaction.request_framing = <uint8_t>request_body_framing(head)
    transaction.request_done = transaction.request_framing == BODY_NONE
    if asks_for_link(head):
        ask_control_plane(visitor, bytes, head_size, size)
        return True
    route = find_route(role, head)
    if route == NULL:
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        transaction_fail(visitor, 404, b"unknown_tunnel", b"There is no such tunnel here.")
        return True
    transaction.route = route.id
    link = live_link(worker, route)
    if link == NULL:
        if transaction.request_done:
            take_head_off(visitor, bytes, head_size, size)
        transaction_fail(
            visitor, 503, b"device_offline", b"The device behind this tunnel is not connected."
        )
        return True
    if (
        worker.options.body_size_max
        and head.content_length > <int64_t>worker.options.body_size_max
    ):
        too_big(visitor)
        return True
    if visitor.opening_link != link:
        pool_stop_waiting(visitor)        # it was sent to another link meanwhile
    if link_is_full(link):
        conn_wait(&visitor.conn, &link.waiting)
        start_waiting(visitor)
        return False
    http = NULL
    if link.opening_first == NULL or link.opening_first == visitor:
        http = take_stream(visitor, link, route, head, &rewrite)
    if http == NULL:
        visitor.state = VISITOR_WAITING
        if visitor.opening_link == NULL:
            if link.opening_count >= OPENING_MAX:
                overloaded(visitor)
                return True
            pool_wait(link, visitor)
            count(worker.counters, COUNT_REQUESTS_QUEUED, 1)
        start_waiting(visitor)
        return False
    transaction.is_waiting = False
    pool_stop_waiting(visitor)
    if not forward_head(visitor, http, head, &rewrite):
        return True
    take_head_off(visitor, bytes, head_size, size)
    send_body(visitor)
    return True


cdef void start_waiting(Visitor *visitor) noexcept nogil:
    # The clock starts once, however often the request is looked at again.
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


cdef void too_big(Visitor *visitor) noexcept nogil:
    # Its body, even one that has wholly come, is not taken off our input: never to be
    # read as the next request.
    visitor.transaction.request_done = False
    transaction_fail(
        visitor, 413, b"body_too_large", b"The request body is larger than this server takes."
    )


cdef void overloaded(Visitor *visitor) noexcept nogil:
    # Its head is still in our input, so the connection does not go on.
    visitor.transaction.request_done = False
    transaction_fail(
        visitor, 503, b"overloaded", b"The device has no room for another request now."
    )


cdef bint is_idempotent(uint8_t method) noexcept nogil:
    # RFC 9110 section 9.2.2, of the methods we know.
    return method in (METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_DELETE)


cdef HttpStream *take_stream(
    Visitor *visitor, Link *link, const Route *route, Head *head, RequestRewrite *rewrite
) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    cdef uint64_t idle_us = worker.options.pool_idle_ms * 1000
    rewrite.address = <const uint8_t *>visitor.address
    rewrite.address_size = visitor.address_size
    rewrite.request_id = transaction.request_id
    rewrite.request_id_size = transaction.request_id_size
    rewrite.is_tls = False
    rewrite.is_trusted = False
    if transaction.log_flags & LOG_RETRIED:
        idle_us = 0
    elif not is_idempotent(transaction.method):
        idle_us //= IDLE_SAFE_METHOD_DIVISOR
    return pool_take(link, route, request_head_bound(head, rewrite), idle_us)


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
        transaction.request_done = False  # the head is still in our input
        transaction_fail(visitor, 503, b"no_memory", b"The proxy is out of memory.")
        return False
    yamux_stream_commit(http.stream, request_head_write(place, head, rewrite))
    transaction.sent_us = worker.now_us
    transaction.wants_upgrade = head.flags & HEAD_UPGRADE
    transaction.request_remaining = head.content_length
    if transaction.request_framing == BODY_CHUNKED:
        chunk_reader_init(&transaction.request_chunks, False)
    if http.is_reused:
        transaction.log_flags |= LOG_REUSED
        # A pooled stream may turn out to be closed by the target: keep the head.
        transaction.may_retry = (
            transaction.request_done and is_idempotent(transaction.method)
            and buffer_append(&transaction.retry_head, head.bytes, head.size) == 0
        )
    visitor.state = VISITOR_ACTIVE
    transaction_deadline(visitor)
    return True


# --- devices that ask for a link -------------------------------------------------------------

cdef void ask_control_plane(
    Visitor *visitor, uint8_t *bytes, uint32_t head_size, uint32_t size
) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef char peer[64]
    if not visitor.transaction.request_done:
        transaction_fail(visitor, 400, b"bad_upgrade", b"A link request has no body.")
        return
    peer_text(visitor, peer)
    visitor.state = VISITOR_AUTH
    visitor.transaction.keep_alive = False
    count(worker.counters, COUNT_AUTH_ASKED, 1)
    worker_emit(
        worker, EVENT_AUTH, conn_handle(&visitor.conn), 0, 0, 0, 0, peer, <uint32_t>strlen(peer),
        bytes, head_size,
    )
    take_head_off(visitor, bytes, head_size, size)
    conn_deadline(&visitor.conn, worker.options.auth_timeout_ms)


cdef void peer_text(const Visitor *visitor, char *target) noexcept nogil:
    # "ip:port", an IPv6 address in brackets; `target` has 64 bytes.
    cdef const char *form = "%s:%u"
    if memchr(visitor.address, c':', visitor.address_size) != NULL:
        form = "[%s]:%u"
    snprintf(target, 64, form, visitor.address, <unsigned int>visitor.port)


cdef void visitor_auth_reply(
    Visitor *visitor, const uint8_t *response, uint32_t size, bint accept, const LinkSetup *setup
) noexcept nogil:
    cdef Conn *conn = &visitor.conn
    cdef char peer[64]
    if visitor.state != VISITOR_AUTH:
        return
    # The control plane logs and counts device logins itself: no request record.
    transaction_free(visitor)
    conn_write(conn, response, size)
    if not accept or conn.flags & CONN_BROKEN or buffer_size(&conn.out):
        count(conn.worker.counters, COUNT_AUTH_REFUSED, 1)
        visitor_finish(visitor)
        return
    peer_text(visitor, peer)
    link_establish(
        conn, setup, peer, NULL, 0, buffer_head(&visitor.input), buffer_size(&visitor.input)
    )
    buffer_consume(&visitor.input, buffer_size(&visitor.input))


# --- request bodies and tunnels ----------------------------------------------------------------

cdef void send_body(Visitor *visitor) noexcept nogil:
    """Move the request body: from visitor.input first, then from the socket."""
    cdef Conn *conn = &visitor.conn
    cdef Transaction *transaction = visitor.transaction
    cdef uint8_t *bytes
    cdef uint32_t allowed, moved = 0
    cdef int64_t received
    cdef int used
    cdef bint from_input
    while not transaction.request_done:
        if link_is_full(transaction.link):
            conn_wait(conn, &transaction.link.waiting)
            return
        if moved >= BODY_BUDGET:
            conn_requeue(conn)
            return
        allowed = transaction.http.stream.send_window
        if allowed == 0:
            return
        if allowed > WORKER_SCRATCH_SIZE:
            allowed = WORKER_SCRATCH_SIZE
        if (
            transaction.request_framing == BODY_LENGTH
            and transaction.request_remaining < allowed
        ):
            allowed = <uint32_t>transaction.request_remaining
        from_input = buffer_size(&visitor.input) != 0
        if from_input:
            bytes = buffer_head(&visitor.input)
            received = buffer_size(&visitor.input)
            if received > allowed:
                received = allowed
        else:
            if not conn.flags & CONN_READABLE:
                return
            bytes = conn.worker.scratch
            received = conn_recv(conn, bytes, allowed)
            if received == -EAGAIN:
                return
            if received <= 0:
                transaction_fail(visitor, 0, b"visitor_gone", b"")
                return
        used = body_part(visitor, bytes, <uint32_t>received)
        if used < 0:
            return
        if from_input:
            buffer_consume(&visitor.input, <uint32_t>used)
        elif used < received and buffer_append(
            &visitor.input, bytes + used, <uint32_t>(received - used)
        ) < 0:
            count(conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
            transaction_fail(visitor, 0, b"no_memory", b"")
            return
        moved += <uint32_t>used


cdef int body_part(Visitor *visitor, const uint8_t *bytes, uint32_t size) noexcept nogil:
    """Validate and send a run of the body; bytes used, -1: the transaction has ended."""
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    cdef const uint8_t *cursor = bytes
    cdef ChunkSpan span
    cdef int result
    if transaction.request_framing == BODY_CHUNKED:
        while True:
            result = chunk_reader_next(
                &transaction.request_chunks, &cursor, bytes + size, &span
            )
            if result != CHUNK_DATA:
                break
        if result < 0:
            count(worker.counters, COUNT_BAD_REQUESTS, 1)
            transaction_fail(
                visitor, head_error_status(result), head_error_reason(result),
                head_error_text(result),
            )
            return -1
        size = <uint32_t>(cursor - bytes)
        transaction.request_done = result == CHUNK_END
        transaction.request_size = transaction.request_chunks.data_total
    else:
        transaction.request_remaining -= size
        transaction.request_size += size
        transaction.request_done = transaction.request_remaining == 0
    if (
        worker.options.body_size_max
        and transaction.request_size > worker.options.body_size_max
    ):
        too_big(visitor)
        return -1
    if yamux_stream_send(transaction.http.stream, bytes, size) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        transaction.request_done = False  # this part of it is still in our input
        transaction_fail(visitor, 503, b"no_memory", b"The proxy is out of memory.")
        return -1
    link_touch(transaction.link)
    transaction.bytes_in += size
    transaction_deadline(visitor)
    return <int>size


cdef void run_tunnel(Visitor *visitor) noexcept nogil:
    """After 101: bytes both ways, each direction closed on its own."""
    cdef Conn *conn = &visitor.conn
    cdef Transaction *transaction = visitor.transaction
    cdef YamuxStream *stream = transaction.http.stream
    cdef uint32_t allowed, moved = 0
    cdef int64_t received
    while not transaction.tunnel_visitor_done:
        if link_is_full(transaction.link):
            conn_wait(conn, &transaction.link.waiting)
            break
        if moved >= BODY_BUDGET:
            conn_requeue(conn)
            break
        allowed = stream.send_window
        if allowed == 0:
            break
        if allowed > WORKER_SCRATCH_SIZE:
            allowed = WORKER_SCRATCH_SIZE
        if buffer_size(&visitor.input):
            received = buffer_size(&visitor.input)
            if received > allowed:
                received = allowed
            if yamux_stream_send(stream, buffer_head(&visitor.input), <uint32_t>received) < 0:
                transaction_fail(visitor, 0, b"no_memory", b"")
                return
            buffer_consume(&visitor.input, <uint32_t>received)
        else:
            if not conn.flags & CONN_READABLE:
                break
            received = conn_recv(conn, conn.worker.scratch, allowed)
            if received == -EAGAIN:
                break
            if received < 0:
                transaction_fail(visitor, 0, b"visitor_gone", b"")
                return
            if received == 0:
                transaction.tunnel_visitor_done = True
                yamux_stream_finish(stream)
            elif yamux_stream_send(stream, conn.worker.scratch, <uint32_t>received) < 0:
                transaction_fail(visitor, 0, b"no_memory", b"")
                return
        moved += <uint32_t>received
        transaction.bytes_in += <uint64_t>received
        link_touch(transaction.link)
        transaction_deadline(visitor)
    if transaction.tunnel_target_done and buffer_size(&conn.out) == 0:
        if transaction.tunnel_visitor_done:
            end_tunnel(visitor)
        else:
            conn_finish_writing(conn)


cdef void end_tunnel(Visitor *visitor) noexcept nogil:
    visitor.transaction.keep_alive = False
    visitor.transaction.target_keep_alive = False
    transaction_finish(visitor)


# --- time and drain ------------------------------------------------------------------------------

cdef void visitor_timeout(Conn *conn) noexcept nogil:
    cdef Visitor *visitor = <Visitor *>conn
    cdef Transaction *transaction = visitor.transaction
    if transaction == NULL and buffer_size(&conn.out):
        # Bytes of the last response it does not take: it must not look complete.
        socket_reset_on_close(conn.fd)
        visitor_close(visitor)
        return
    if visitor.state == VISITOR_LINGER:
        visitor_close(visitor)
        return
    if visitor.state == VISITOR_HEAD and transaction == NULL:
        if buffer_size(&visitor.input) == 0:
            visitor_close(visitor)        # idle keep-alive, or a peer that never spoke
            return
        transaction = transaction_begin(visitor)
        if transaction == NULL:
            visitor_close(visitor)
            return
        new_request_id(visitor)
        count(conn.worker.counters, COUNT_TIMEOUTS, 1)
        transaction_fail(
            visitor, 408, b"head_timeout", b"The request head did not come in time."
        )
        return
    count(conn.worker.counters, COUNT_TIMEOUTS, 1)
    if visitor.state == VISITOR_TUNNEL:
        transaction_fail(visitor, 0, b"tunnel_timeout", b"")
    elif visitor.state == VISITOR_AUTH:
        transaction_fail(
            visitor, 503, b"auth_timeout", b"The server could not check the token in time."
        )
    elif visitor.state in (VISITOR_HEAD, VISITOR_WAITING):
        overloaded(visitor)
    elif transaction.response_state != RESPONSE_HEAD:
        transaction_fail(visitor, 0, b"body_timeout", b"")
    elif not transaction.request_done and transaction.http.stream.send_window:
        transaction_fail(visitor, 408, b"body_timeout", b"The request body did not come in time.")
    else:
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
            and buffer_size(&worker.conns[slot].out)
        ):
            return True
    return False
