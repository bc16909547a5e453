# The trace that a request belongs to (http1/traceparent.pxd): what the log tells of it, and what
# the target is told.

from proxy_engine_core.forward.transaction cimport Transaction, Visitor
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.http1.rewrite cimport RequestRewrite


cdef enum TraceMode:                      # option trace_mode
    TRACE_PASS = 0                        # fields go on as they came
    TRACE_START                           # ... and a request without a trace begins one
    TRACE_JOIN                            # all have a span of ours, the parent of the target's

# What the visitor's traceparent says, if there is one, it passes this hop, and it is valid. Only
# for heads with HEAD_TRACEPARENT.
cdef void trace_note(Transaction *transaction, const Head *head) noexcept nogil
# The field for the target into `rewrite`, unless the visitor's goes on as it came. Only where the
# mode is not TRACE_PASS. A request that is sent once more is of the same trace and span.
cdef void trace_tell(Visitor *visitor, Head *head, RequestRewrite *rewrite) noexcept nogil
