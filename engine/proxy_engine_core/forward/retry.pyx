# See retry.pxd.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.buffer cimport (
    Buffer, buffer_append, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_REQUESTS_RETRIED, count,
)
from proxy_engine_core.forward.policy cimport policy_release
from proxy_engine_core.forward.pool cimport http_stream_release
from proxy_engine_core.forward.transaction cimport (
    LOG_RETRIED, LOG_REUSED, VISITOR_HEAD, HttpStream, Transaction, Visitor,
)
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.conn cimport conn_requeue, conn_stop_waiting
from proxy_engine_core.io.worker cimport Worker, conn_handle
from proxy_engine_core.yamux.session cimport YAMUX_RESET_CANCEL, YAMUX_STREAM_ACK_RECEIVED


cdef void retry_keep_head(Visitor *visitor, const Head *head) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    transaction.bytes_out_before = transaction.link.bytes_out
    if transaction.log_flags & LOG_RETRIED:
        return
    if head.content_length > 0 and head.size + head.content_length > KEPT_SIZE_MAX:
        return                            # it would be dropped later, after copying most of it
    transaction.is_kept = buffer_append(&transaction.kept, head.bytes, head.size) == 0


cdef bint is_unsent(const Transaction *transaction) noexcept nogil:
    # The link's socket has taken nothing at all since the request was queued for it.
    return transaction.link.bytes_out == transaction.bytes_out_before


cdef bint may_be_refused(const Transaction *transaction) noexcept nogil:
    # Our agent says REFUSED only instead of its ACK, so nothing reached a target; in the
    # resets of other peers the number may mean anything.
    return (
        transaction.link.has_preamble
        and not transaction.http.is_reused
        and not transaction.http.stream.flags & YAMUX_STREAM_ACK_RECEIVED
    )


cdef bint may_be_lost(const Transaction *transaction) noexcept nogil:
    # The target may have closed the idle stream before the request came.
    return transaction.http.is_reused and is_idempotent(transaction.method)


cdef void retry_keep_body(
    Visitor *visitor, const uint8_t *bytes, uint32_t size
) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    if (
        buffer_size(&transaction.kept) + size > KEPT_SIZE_MAX
        or not (
            may_be_lost(transaction) or may_be_refused(transaction) or is_unsent(transaction)
        )
        or buffer_append(&transaction.kept, bytes, size) < 0
    ):
        retry_forget(transaction)


cdef void retry_forget(Transaction *transaction) noexcept nogil:
    transaction.is_kept = False
    buffer_free(&transaction.kept)


cdef bint retry(Visitor *visitor, int cause) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    cdef HttpStream *http = transaction.http
    cdef Buffer merged
    if not transaction.is_kept:
        return False
    if cause == RETRY_REFUSED:
        if not may_be_refused(transaction):
            return False
        transaction.refused_by = conn_handle(&transaction.link.conn)
    elif not may_be_lost(transaction) and (
        cause != RETRY_LINK_LOST or not is_unsent(transaction)
    ):
        return False
    # Back to where the head had just come in: it is parsed and routed anew.
    merged = transaction.kept
    if buffer_append(
        &merged, buffer_head(&visitor.input), buffer_size(&visitor.input)
    ) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return False
    buffer_free(&visitor.input)
    visitor.input = merged
    buffer_init(&transaction.kept, &worker.pool, 0)
    transaction.is_kept = False
    transaction.http = NULL
    transaction.link = NULL
    policy_release(transaction.policy)
    transaction.policy = NULL
    http.visitor = NULL
    http_stream_release(http, YAMUX_RESET_CANCEL)
    conn_stop_waiting(&visitor.conn)
    transaction.log_flags = (transaction.log_flags | LOG_RETRIED) & ~<uint32_t>LOG_REUSED
    visitor.state = VISITOR_HEAD
    visitor.scanned = 0
    count(worker.counters, COUNT_REQUESTS_RETRIED, 1)
    conn_requeue(&visitor.conn)
    return True
