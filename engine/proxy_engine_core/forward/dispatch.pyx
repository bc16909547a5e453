# See dispatch.pxd.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.counters cimport COUNT_MEMORY_ERRORS, COUNT_REQUESTS_QUEUED, count
from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED
from proxy_engine_core.forward.clock cimport transaction_deadline, upload_starts
from proxy_engine_core.forward.pace cimport pace_spend
from proxy_engine_core.forward.pool cimport pool_take, pool_wait
from proxy_engine_core.forward.retry cimport is_idempotent, retry_keep_head
from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.trace cimport trace_tell
from proxy_engine_core.forward.transaction cimport (
    LOG_RETRIED, LOG_REUSED, VISITOR_ACTIVE, HttpStream, Transaction, Visitor, transaction_fail,
)
from proxy_engine_core.http1.chunked cimport chunk_reader_init
from proxy_engine_core.http1.head cimport BODY_CHUNKED, HEAD_EXPECT_CONTINUE, HEAD_UPGRADE, Head
from proxy_engine_core.http1.rewrite cimport RequestRewrite, request_head_bound, request_head_write
from proxy_engine_core.io.conn cimport conn_deadline
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link, link_of
from proxy_engine_core.link.output cimport link_touch
from proxy_engine_core.yamux.send cimport yamux_stream_commit, yamux_stream_reserve

cdef enum:
    IDLE_UNSAFE_DIVISOR = 2               # unsafe methods avoid streams idle half the limit


cdef bint wait_for_stream(Visitor *visitor, Link *link) noexcept nogil:
    if visitor.opening_link == NULL:
        if link.opening_count >= visitor.conn.worker.options.open_queue_max:
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


cdef void request_overloaded(Visitor *visitor) noexcept nogil:
    # Its head is still in our input, so the connection does not go on.
    visitor.transaction.request_done = False
    transaction_fail(
        visitor, 503, b"overloaded", b"The device has no room for another request now."
    )


cdef void request_no_memory(Visitor *visitor) noexcept nogil:
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
    rewrite.trace_size = 0
    if visitor.conn.worker.options.trace_mode:
        trace_tell(visitor, head, rewrite)
    rewrite.is_tls = visitor.conn.tls != NULL
    rewrite.is_trusted = visitor.address_key == CLIENT_KEY_TRUSTED
    if transaction.log_flags & LOG_RETRIED:
        idle_divisor = 0
    elif not is_idempotent(transaction.method):
        idle_divisor = IDLE_UNSAFE_DIVISOR
    return pool_take(link, route, request_head_bound(head, rewrite), idle_divisor)


cdef bint forward_head(
    Visitor *visitor, HttpStream *http, const Head *head, const RequestRewrite *rewrite
) noexcept nogil:
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
        request_no_memory(visitor)
        return False
    yamux_stream_commit(http.stream, request_head_write(place, head, rewrite))
    if transaction.quota != NULL:
        pace_spend(visitor, head.size)
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
