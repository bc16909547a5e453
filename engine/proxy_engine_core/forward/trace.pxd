# The trace that a request belongs to (http1/traceparent.pxd), as the log tells of it.

from proxy_engine_core.forward.transaction cimport Transaction
from proxy_engine_core.http1.head cimport Head


# What the visitor's traceparent says, if there is one, it passes this hop, and it is valid. Only
# for heads with HEAD_TRACEPARENT.
cdef void trace_note(Transaction *transaction, const Head *head) noexcept nogil
