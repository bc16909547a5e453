# See describe.pxd.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from proxy_engine_core.counters cimport COUNT_CONNECTIONS_USED_UP, count
from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED, find_client
from proxy_engine_core.forward.request_id cimport REQUEST_ID_SIZE, request_id_write
from proxy_engine_core.forward.trace cimport trace_note
from proxy_engine_core.forward.transaction cimport (
    LOG_HOST_SIZE_MAX, LOG_HTTP10, LOG_METHOD_SIZE_MAX, LOG_PATH_SIZE_MAX, Transaction, Visitor,
    server_of,
)
from proxy_engine_core.http1.head cimport (
    HEAD_ACCEPTS_HTML, HEAD_KEEP_ALIVE, HEAD_TRACEPARENT, Head, Span,
)
from proxy_engine_core.io.worker cimport Worker


cdef void new_request_id(Visitor *visitor) noexcept nogil:
    request_id_write(server_of(visitor.conn.worker), visitor.transaction.request_id)
    visitor.transaction.request_id_size = REQUEST_ID_SIZE


cdef uint32_t copy_span(
    uint8_t *target, uint32_t size_max, const Head *head, const Span *span
) noexcept nogil:
    cdef uint32_t size = span.size if span.size < size_max else size_max
    memcpy(target, head.bytes + span.start, size)
    return size


cdef void describe(Visitor *visitor, const Head *head) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    transaction.method = head.method
    transaction.minor_version = head.minor_version
    if head.minor_version == 0:
        transaction.log_flags |= LOG_HTTP10
    transaction.keep_alive = head.flags & HEAD_KEEP_ALIVE
    transaction.is_last = not transaction.keep_alive
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
    if head.flags & HEAD_TRACEPARENT:
        trace_note(transaction, head)
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
