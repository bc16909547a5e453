# Responses: parsed in the link's receive buffer, rewritten into the arena, gathered
# together with the body behind it, so head and body of a small response leave in one
# send. See transaction.pxd for where this stands in the life of a request.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.atomic cimport counter_add
from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_head, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_BAD_RESPONSES, COUNT_MEMORY_ERRORS, COUNT_STREAM_SURPLUS, COUNT_TUNNELS, count,
)
from proxy_engine_core.forward.clock cimport transaction_deadline
from proxy_engine_core.forward.policy cimport POLICY_SERVER_TIMING, policy_edit_response
from proxy_engine_core.forward.pool cimport (
    http_stream_release, pool_idle_told, pool_stream_lost, pool_wake,
)
from proxy_engine_core.forward.retry cimport (
    RETRY_LINK_LOST, RETRY_REFUSED, RETRY_STREAM_FAILED, retry, retry_forget,
)
from proxy_engine_core.forward.timing cimport TIMING_SIZE_MAX, timing_write
from proxy_engine_core.forward.transaction cimport (
    LOG_TUNNEL, RESPONSE_BODY, RESPONSE_DONE, RESPONSE_HEAD, VISITOR_TUNNEL, HttpStream,
    Transaction, Visitor, server_of, transaction_answered, transaction_count, transaction_fail,
    transaction_finish,
)
from proxy_engine_core.http1.edit cimport ResponseEdit
from proxy_engine_core.http1.chunked cimport (
    CHUNK_DATA, CHUNK_END, ChunkSpan, chunk_reader_init, chunk_reader_next, chunk_size_line,
)
from proxy_engine_core.http1.head cimport (
    BODY_CHUNKED, BODY_CLOSE, BODY_LENGTH, BODY_NONE, HEAD_KEEP_ALIVE, HEAD_SIZE_MAX, HEAD_UPGRADE,
    Head, head_find_end, response_body_framing, response_head_parse,
)
from proxy_engine_core.http1.rewrite cimport (
    REFRAME_CHUNK, REFRAME_CLOSE, REFRAME_NONE, ResponseRewrite, response_head_bound,
    response_head_write,
)
from proxy_engine_core.io.conn cimport (
    conn_arena, conn_arena_trim, conn_gather, conn_requeue, gather_flush,
)
from proxy_engine_core.io.profile cimport profile_apply
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport OWNER_HTTP, RESET_LINK_LOST, Link, LinkHost
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_CANCEL, YAMUX_RESET_PROTOCOL, YAMUX_RESET_REFUSED, YAMUX_RESET_TIMEOUT,
    YAMUX_RESET_UNKNOWN_TUNNEL, YAMUX_RESET_UNREACHABLE, YAMUX_STREAM_ACK_RECEIVED, YamuxStream,
)

cdef const uint8_t *LAST_CHUNK = b"0\r\n\r\n"


cdef void response_init_worker(Worker *worker) noexcept nogil:
    cdef LinkHost *host = <LinkHost *>worker.role
    host.ops[<int>OWNER_HTTP].data = stream_data
    host.ops[<int>OWNER_HTTP].writable = stream_writable
    host.ops[<int>OWNER_HTTP].accepted = stream_accepted
    host.ops[<int>OWNER_HTTP].finished = stream_finished
    host.ops[<int>OWNER_HTTP].reset = stream_reset


cdef void bad_response(Visitor *visitor, const char *text) noexcept nogil:
    count(visitor.conn.worker.counters, COUNT_BAD_RESPONSES, 1)
    transaction_fail(visitor, 502, b"bad_response", text)


cdef inline void pass_on(
    Visitor *visitor, Transaction *transaction, const uint8_t *bytes, size_t size
) noexcept nogil:
    transaction.bytes_out += size
    conn_gather(&visitor.conn, bytes, size)


# --- the head -----------------------------------------------------------------------------

cdef int take_head(Visitor *visitor, uint8_t *bytes, uint32_t size) noexcept nogil:
    """Bytes of `bytes` used; -1: the transaction has ended (or moved on) and owns the rest."""
    cdef Transaction *transaction = visitor.transaction
    cdef uint32_t before = buffer_size(&transaction.response_head)
    cdef uint32_t take = size
    cdef uint32_t head_size
    if before == 0:
        head_size = head_find_end(bytes, size, &transaction.response_scanned)
        if head_size:
            return <int>head_size if use_head(visitor, bytes, head_size) else -1
    # Split over frames: collect it.
    if take > HEAD_SIZE_MAX + 1 - before:
        take = HEAD_SIZE_MAX + 1 - before
    if buffer_append(&transaction.response_head, bytes, take) < 0:
        count(visitor.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        transaction_fail(visitor, 502, b"no_memory", b"The proxy is out of memory.")
        return -1
    head_size = head_find_end(
        buffer_head(&transaction.response_head), buffer_size(&transaction.response_head),
        &transaction.response_scanned,
    )
    if head_size == 0:
        if buffer_size(&transaction.response_head) > HEAD_SIZE_MAX:
            bad_response(visitor, b"The service answered with a head that is too large.")
            return -1
        return <int>take
    if not use_head(visitor, buffer_head(&transaction.response_head), head_size):
        return -1
    buffer_consume(&transaction.response_head, buffer_size(&transaction.response_head))
    return <int>(head_size - before)


cdef bint use_head(Visitor *visitor, const uint8_t *bytes, uint32_t size) noexcept nogil:
    """Parse, rewrite and gather one head; False: the transaction has ended."""
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    cdef Head *head = &server_of(worker).head
    transaction.response_scanned = 0
    if response_head_parse(head, bytes, size) < 0:
        bad_response(visitor, b"The service answered with something that is not HTTP/1.1.")
        return False
    if head.status < 200 and head.status != 101:
        # Interim: relayed to HTTP/1.1 visitors, then the wait goes on.
        if transaction.minor_version == 0:
            return True
        return write_head(visitor, head)
    if transaction.first_byte_us == 0:
        transaction_answered(transaction, worker.now_us)
    transaction.status = head.status
    if head.status == 101:
        if not transaction.wants_upgrade or not head.flags & HEAD_UPGRADE:
            bad_response(visitor, b"The service switched protocols without being asked.")
            return False
        transaction.head_sent = True
        if not write_head(visitor, head):
            return False
        start_tunnel(visitor)
        return True
    transaction.response_framing = <uint8_t>response_body_framing(head, transaction.method)
    transaction.target_keep_alive = (
        head.flags & HEAD_KEEP_ALIVE and transaction.response_framing != BODY_CLOSE
    )
    if head.keep_alive_s >= 0:
        pool_idle_told(transaction.http, head.keep_alive_s)
    transaction.reframe = REFRAME_NONE
    if transaction.minor_version == 0:
        if transaction.response_framing == BODY_CHUNKED:
            transaction.reframe = REFRAME_CLOSE
        if transaction.response_framing in (BODY_CHUNKED, BODY_CLOSE):
            transaction.keep_alive = False
    elif transaction.response_framing == BODY_CLOSE:
        transaction.reframe = REFRAME_CHUNK
    if not transaction.request_done or worker.is_draining:
        transaction.keep_alive = False
    if transaction.response_framing == BODY_LENGTH:
        transaction.response_remaining = head.content_length
    elif transaction.response_framing == BODY_CHUNKED:
        chunk_reader_init(&transaction.response_chunks, True)
    transaction.head_sent = True
    transaction.response_state = RESPONSE_BODY
    transaction_deadline(visitor)         # of the body now, no more of its head
    return write_head(visitor, head)


cdef bint write_head(Visitor *visitor, Head *head) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef ResponseRewrite rewrite
    cdef ResponseEdit edit
    cdef uint8_t timing[TIMING_SIZE_MAX]
    cdef uint8_t *place
    cdef uint32_t size
    rewrite.request_id = transaction.request_id
    rewrite.request_id_size = transaction.request_id_size
    rewrite.reframe = transaction.reframe
    rewrite.keep_alive = transaction.keep_alive
    rewrite.visitor_minor_version = transaction.minor_version
    rewrite.edit = NULL
    if transaction.policy != NULL and head.status >= 200:
        policy_edit_response(transaction.policy, head, transaction.is_https, &edit)
        rewrite.edit = &edit
        if transaction.policy.flags & POLICY_SERVER_TIMING:
            edit.timing = timing
            edit.timing_size = timing_write(timing, transaction)
    place = conn_arena(visitor.conn.worker, response_head_bound(head, &rewrite))
    if place == NULL:
        bad_response(visitor, b"The service answered with a head that is too large.")
        return False
    size = response_head_write(place, head, &rewrite)
    conn_arena_trim(visitor.conn.worker, place + size)
    pass_on(visitor, transaction, place, size)
    return True


cdef void start_tunnel(Visitor *visitor) noexcept nogil:
    visitor.state = VISITOR_TUNNEL
    profile_apply(visitor.transaction.http.profile, visitor.conn.fd)
    visitor.transaction.log_flags |= LOG_TUNNEL
    count(visitor.conn.worker.counters, COUNT_TUNNELS, 1)
    counter_add(&visitor.transaction.stats.connections, 1)
    transaction_deadline(visitor)
    conn_requeue(&visitor.conn)            # what the visitor sent early goes on its way now


# --- the body -----------------------------------------------------------------------------

cdef int take_chunked(Visitor *visitor, const uint8_t *bytes, uint32_t size) noexcept nogil:
    """Bytes used, up to the end of the body; -1: the transaction has ended."""
    cdef Transaction *transaction = visitor.transaction
    cdef const uint8_t *cursor = bytes
    cdef const uint8_t *end = bytes + size
    cdef ChunkSpan span
    cdef int result
    while True:
        result = chunk_reader_next(&transaction.response_chunks, &cursor, end, &span)
        if result < 0:
            bad_response(visitor, b"The service sent a malformed chunked body.")
            return -1
        if result == CHUNK_DATA:
            if transaction.reframe == REFRAME_CLOSE:
                pass_on(visitor, transaction, span.bytes, span.size)
        else:
            break
    if transaction.reframe != REFRAME_CLOSE:
        pass_on(visitor, transaction, bytes, cursor - bytes)
    if result == CHUNK_END:
        transaction.response_state = RESPONSE_DONE
    return <int>(cursor - bytes)


cdef void pass_chunk(
    Visitor *visitor, Transaction *transaction, const uint8_t *bytes, uint32_t size
) noexcept nogil:
    # A run of a close-delimited body as one chunk.
    cdef uint8_t *line = conn_arena(visitor.conn.worker, 16)
    cdef uint32_t line_size
    if line == NULL:
        return
    line_size = chunk_size_line(line, size)
    memcpy(line + line_size, b"\r\n", 2)
    pass_on(visitor, transaction, line, line_size)
    pass_on(visitor, transaction, bytes, size)
    pass_on(visitor, transaction, line + line_size, 2)


cdef void stream_data(
    Link *link, YamuxStream *stream, uint8_t *bytes, size_t size
) noexcept nogil:
    cdef HttpStream *http = <HttpStream *>stream.owner
    cdef Visitor *visitor = http.visitor
    cdef Transaction *transaction
    cdef uint32_t left = <uint32_t>size
    cdef int used
    if visitor == NULL:
        # Nobody asked: a target that speaks on an idle connection is not in step.
        count(link.conn.worker.counters, COUNT_STREAM_SURPLUS, 1)
        http_stream_release(http, YAMUX_RESET_PROTOCOL)
        return
    transaction = visitor.transaction
    transaction_deadline(visitor)
    if transaction.is_kept:
        retry_forget(transaction)         # the target is at it
    if transaction.first_byte_us == 0 and not stream.flags & YAMUX_STREAM_ACK_RECEIVED:
        pool_wake(link)                   # an answer without an ACK frees a slot as well
    while True:
        if visitor.state == VISITOR_TUNNEL:
            pass_on(visitor, transaction, bytes, left)
            transaction_count(link.conn.worker, transaction)
            return
        if transaction.response_state == RESPONSE_HEAD:
            if left == 0:
                return
            used = take_head(visitor, bytes, left)
            if used < 0:
                return
        elif transaction.response_framing == BODY_LENGTH:
            used = <int>left
            if left > <uint64_t>transaction.response_remaining:
                used = <int>transaction.response_remaining
            pass_on(visitor, transaction, bytes, used)
            transaction.response_remaining -= used
            if transaction.response_remaining == 0:
                transaction.response_state = RESPONSE_DONE
        elif transaction.response_framing == BODY_CHUNKED:
            if left == 0:
                return
            used = take_chunked(visitor, bytes, left)
            if used < 0:
                return
        elif transaction.response_framing == BODY_CLOSE:
            used = <int>left
            if left and transaction.reframe == REFRAME_CHUNK:
                pass_chunk(visitor, transaction, bytes, left)
            else:
                pass_on(visitor, transaction, bytes, left)
        else:
            used = 0
            transaction.response_state = RESPONSE_DONE
        bytes += used
        left -= <uint32_t>used
        if transaction.response_state == RESPONSE_DONE:
            if left or link.session.payload_remaining:
                # More than it announced, or the rest of this frame will be: never to be
                # read as the next response.
                count(link.conn.worker.counters, COUNT_STREAM_SURPLUS, 1)
                transaction.target_keep_alive = False
            transaction_finish(visitor)
            return
        if left == 0 and transaction.response_framing != BODY_NONE:
            transaction_count(link.conn.worker, transaction)
            return


cdef void stream_writable(Link *link, YamuxStream *stream) noexcept nogil:
    cdef HttpStream *http = <HttpStream *>stream.owner
    if http.visitor != NULL:
        conn_requeue(&http.visitor.conn)


cdef void stream_accepted(Link *link, YamuxStream *stream) noexcept nogil:
    cdef HttpStream *http = <HttpStream *>stream.owner
    if http.visitor != NULL:
        transaction_deadline(http.visitor)
        if http.visitor.transaction.is_tcp:
            transaction_answered(http.visitor.transaction, link.conn.worker.now_us)
        if not http.is_reused:
            retry_forget(http.visitor.transaction)
    pool_wake(link)


cdef void stream_finished(Link *link, YamuxStream *stream) noexcept nogil:
    cdef HttpStream *http = <HttpStream *>stream.owner
    cdef Visitor *visitor = http.visitor
    cdef Transaction *transaction
    pool_stream_lost(http)
    if visitor == NULL:
        http_stream_release(http, YAMUX_RESET_CANCEL)
        return
    transaction = visitor.transaction
    if visitor.state == VISITOR_TUNNEL:
        transaction.tunnel_target_done = True
        gather_flush(link.conn.worker)
        conn_requeue(&visitor.conn)        # shuts our side down once the output is gone
        return
    if transaction.response_state == RESPONSE_HEAD:
        if retry(visitor, RETRY_STREAM_FAILED):
            return
        transaction_fail(
            visitor, 502, b"target_lost", b"The service closed the connection without an answer."
        )
        return
    if transaction.response_framing == BODY_CLOSE:
        if transaction.reframe == REFRAME_CHUNK:
            pass_on(visitor, transaction, LAST_CHUNK, 5)
        transaction_finish(visitor)
        return
    transaction_fail(
        visitor, 502, b"target_lost", b"The service closed in the middle of its answer."
    )


cdef void stream_reset(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil:
    cdef HttpStream *http = <HttpStream *>stream.owner
    cdef Visitor *visitor = http.visitor
    if code != RESET_LINK_LOST:
        pool_stream_lost(http)
    if visitor == NULL:
        http_stream_release(http, YAMUX_RESET_CANCEL)
        return
    if code == RESET_LINK_LOST:
        if not retry(visitor, RETRY_LINK_LOST):
            transaction_fail(visitor, 502, b"link_lost", b"The connection to the device was lost.")
    elif code == YAMUX_RESET_REFUSED:
        if not retry(visitor, RETRY_REFUSED):
            transaction_fail(
                visitor, 502, b"refused", b"The device could not connect: the service refused."
            )
    elif code == YAMUX_RESET_UNREACHABLE:
        transaction_fail(
            visitor, 502, b"unreachable", b"The device could not reach the service."
        )
    elif code == YAMUX_RESET_TIMEOUT:
        transaction_fail(
            visitor, 504, b"target_timeout", b"The device could not connect to the service in time."
        )
    elif code == YAMUX_RESET_UNKNOWN_TUNNEL:
        transaction_fail(
            visitor, 502, b"unknown_target", b"The device does not know this tunnel any more."
        )
    elif not retry(visitor, RETRY_STREAM_FAILED):
        transaction_fail(visitor, 502, b"target_lost", b"The service broke the connection.")
