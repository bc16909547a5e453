# Request bodies and tunnels: bytes from the visitor to its stream. See body.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_free, buffer_head, buffer_size,
)
from proxy_engine_core.counters cimport COUNT_BAD_REQUESTS, COUNT_MEMORY_ERRORS, count
from proxy_engine_core.forward.clock cimport (
    transaction_deadline, upload_goes_on, upload_starts, upload_stops,
)
from proxy_engine_core.forward.pace cimport is_paced, pace_spend
from proxy_engine_core.forward.retry cimport retry_keep_body
from proxy_engine_core.forward.transaction cimport (
    Transaction, Visitor, transaction_count, transaction_fail, transaction_finish,
)
from proxy_engine_core.http1.chunked cimport CHUNK_DATA, CHUNK_END, ChunkSpan, chunk_reader_next
from proxy_engine_core.http1.head cimport (
    BODY_CHUNKED, BODY_LENGTH, head_error_reason, head_error_status, head_error_text,
)
from proxy_engine_core.io.conn cimport (
    conn_deadline, conn_finish_writing, conn_owed, conn_recv, conn_requeue, conn_wait,
)
from proxy_engine_core.io.worker cimport CONN_BROKEN, CONN_READABLE, Conn, Worker
from proxy_engine_core.link.output cimport (
    link_allowance, link_is_full, link_touch, link_turn_is_over,
)
from proxy_engine_core.yamux.send cimport yamux_stream_finish, yamux_stream_rest, yamux_stream_send
from proxy_engine_core.yamux.session cimport YamuxStream

cdef enum:
    BODY_BUDGET = 256 * 1024              # body bytes moved before others get a turn


cdef void body_too_big(Visitor *visitor) noexcept nogil:
    # Its body, even one that has wholly come, is not taken off our input: never to be
    # read as the next request.
    visitor.transaction.request_done = False
    transaction_fail(
        visitor, 413, b"body_too_large", b"The request body is larger than this server takes."
    )


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
        if transaction.quota != NULL and is_paced(visitor):
            upload_stops(visitor)
            return
        if (
            link_is_full(transaction.link, transaction.http.stream)
            or link_turn_is_over(transaction.link, moved)
        ):
            upload_stops(visitor)
            conn_wait(conn, &transaction.link.waiting)
            return
        if moved >= BODY_BUDGET:
            conn_requeue(conn)
            return
        allowed = link_allowance(transaction.link, transaction.http.stream)
        if allowed == 0:
            upload_stops(visitor)
            return
        upload_goes_on(visitor)
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
                yamux_stream_rest(transaction.http.stream)
                return
            bytes = conn.worker.scratch
            received = conn_recv(conn, bytes, allowed)
            if received == -EAGAIN:
                continue
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
    yamux_stream_rest(transaction.http.stream)


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
        body_too_big(visitor)
        return -1
    if yamux_stream_send(transaction.http.stream, bytes, size) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        transaction.request_done = False  # this part of it is still in our input
        transaction_fail(visitor, 503, b"no_memory", b"The proxy is out of memory.")
        return -1
    if transaction.is_kept:
        retry_keep_body(visitor, bytes, size)
    link_touch(transaction.link)
    if transaction.quota != NULL:
        pace_spend(visitor, size)
    transaction.bytes_in += size
    if not transaction.is_kept:
        transaction_count(worker, transaction)
    if transaction.upload_since_ms == 0:
        upload_starts(transaction, worker)   # after a 100 (Continue), or without one
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
        if transaction.quota != NULL and is_paced(visitor):
            break
        if link_is_full(transaction.link, stream) or link_turn_is_over(transaction.link, moved):
            conn_wait(conn, &transaction.link.waiting)
            break
        if moved >= BODY_BUDGET:
            conn_requeue(conn)
            break
        allowed = min(
            link_allowance(transaction.link, stream), transaction.http.profile.read_size_max
        )
        if allowed == 0:
            break
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
                yamux_stream_rest(stream)
                break
            received = conn_recv(conn, conn.worker.scratch, allowed)
            if received == -EAGAIN:
                continue
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
        if transaction.quota != NULL:
            pace_spend(visitor, <uint32_t>received)
        transaction.bytes_in += <uint64_t>received
        transaction_count(conn.worker, transaction)
        link_touch(transaction.link)
        transaction_deadline(visitor)
    if conn.flags & CONN_BROKEN:
        buffer_free(&conn.out)
        if transaction.tunnel_visitor_done or not conn.flags & CONN_READABLE:
            transaction_fail(visitor, 0, b"visitor_gone", b"")
            return
        # What it said before is still passed on, for as long as it is taken.
        conn_deadline(conn, conn.worker.options.reader_timeout_ms)
        return
    if transaction.tunnel_target_done and conn_owed(conn) == 0:
        if transaction.tunnel_visitor_done:
            end_tunnel(visitor)
        else:
            conn_finish_writing(conn)


cdef void end_tunnel(Visitor *visitor) noexcept nogil:
    visitor.transaction.keep_alive = False
    visitor.transaction.target_keep_alive = False
    transaction_finish(visitor)
