# See trace.pxd.

from libc.stdint cimport uint32_t
from libc.string cimport memset

from proxy_engine_core.forward.transaction cimport Transaction
from proxy_engine_core.http1.head cimport FIELD_TRACEPARENT, Field, Head
from proxy_engine_core.http1.traceparent cimport Trace, traceparent_read


cdef void trace_note(Transaction *transaction, const Head *head) noexcept nogil:
    cdef const Field *found = NULL
    cdef uint32_t index
    if transaction.trace_size:
        return                            # waiting or retried: it has been read
    for index in range(head.field_count):
        if head.fields[index].id == FIELD_TRACEPARENT and not head.fields[index].is_dropped:
            if found != NULL:
                return                    # two of them name no trace
            found = &head.fields[index]
    memset(&transaction.trace, 0, sizeof(Trace))
    if found != NULL and traceparent_read(
        head.bytes + found.value.start, found.value.size, &transaction.trace,
        &transaction.trace_flags,
    ):
        transaction.trace_size = sizeof(Trace)
