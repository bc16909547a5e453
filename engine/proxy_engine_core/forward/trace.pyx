# See trace.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from proxy_engine_core.forward.transaction cimport Transaction, Visitor
from proxy_engine_core.http1.edit cimport edit_adds
from proxy_engine_core.http1.head cimport FIELD_TRACEPARENT, FIELD_TRACESTATE, Field, Head
from proxy_engine_core.http1.rewrite cimport TRACE_LINE_SIZE, RequestRewrite
from proxy_engine_core.http1.traceparent cimport (
    SPAN_ID_SIZE, TRACE_ID_SIZE, TRACE_SAMPLED, TRACEPARENT_SIZE, Trace, id_is_none,
    traceparent_read, traceparent_write,
)
from proxy_engine_core.io.worker cimport Worker, worker_random


cdef const Field *only_traceparent(const Head *head) noexcept nogil:
    """NULL: there is none that goes on, or there are several, which name no trace."""
    cdef const Field *found = NULL
    cdef uint32_t index
    for index in range(head.field_count):
        if head.fields[index].id == FIELD_TRACEPARENT and not head.fields[index].is_dropped:
            if found != NULL:
                return NULL
            found = &head.fields[index]
    return found


cdef void trace_note(Transaction *transaction, const Head *head) noexcept nogil:
    cdef const Field *field
    if transaction.trace_size:
        return                            # waiting or sent once more: it has been read
    field = only_traceparent(head)
    memset(&transaction.trace, 0, sizeof(Trace))
    if field != NULL and traceparent_read(
        head.bytes + field.value.start, field.value.size, &transaction.trace,
        &transaction.trace_flags,
    ):
        transaction.trace_size = sizeof(Trace)


cdef void new_id(Worker *worker, uint8_t *target, uint32_t size) noexcept nogil:
    # splitmix64 gives a zero once in its cycle; a second one is not next to it.
    cdef uint64_t bits
    cdef uint32_t offset
    for offset in range(0, size, 8):
        bits = worker_random(worker)
        if bits == 0:
            bits = worker_random(worker)
        memcpy(target + offset, &bits, 8)


cdef void begin_trace(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    memset(&transaction.trace, 0, sizeof(Trace))
    new_id(worker, transaction.trace.id, TRACE_ID_SIZE)
    transaction.trace_size = sizeof(Trace)
    transaction.trace_flags = (
        TRACE_SAMPLED if worker_random(worker) % 1000 < worker.options.trace_sampled else 0
    )


cdef void trace_tell(Visitor *visitor, Head *head, RequestRewrite *rewrite) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    cdef Trace *trace = &transaction.trace
    cdef bint is_visitors = (
        transaction.trace_size and not id_is_none(trace.parent, SPAN_ID_SIZE)
    )
    cdef uint32_t index
    if rewrite.edit != NULL and edit_adds(&rewrite.edit.head, b"traceparent", 11):
        return                            # an operator's rule sets it: two would name no trace
    # An operator may have taken the visitor's away (a rule for headers): then it does not count.
    if is_visitors and only_traceparent(head) == NULL:
        is_visitors = False
        transaction.trace_size = 0
    if is_visitors and worker.options.trace_mode == TRACE_START:
        return
    if transaction.trace_size == 0:
        begin_trace(visitor)
    if id_is_none(trace.span, SPAN_ID_SIZE):
        new_id(worker, trace.span, SPAN_ID_SIZE)
    for index in range(head.field_count):
        if head.fields[index].id == FIELD_TRACEPARENT or (
            head.fields[index].id == FIELD_TRACESTATE and not is_visitors
        ):
            head.fields[index].is_dropped = True
    memcpy(rewrite.trace, b"traceparent: ", 13)
    traceparent_write(rewrite.trace + 13, trace, transaction.trace_flags)
    memcpy(rewrite.trace + 13 + TRACEPARENT_SIZE, b"\r\n", 2)
    rewrite.trace_size = TRACE_LINE_SIZE
