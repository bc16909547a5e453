# A visitor's request head: read, parsed once, routed and put on a stream.

from proxy_engine_core.forward.transaction cimport Visitor


# VISITOR_HEAD: look at the input, read more, and begin the request when its head is in.
cdef void read_head(Visitor *visitor) noexcept nogil
cdef void new_request_id(Visitor *visitor) noexcept nogil
# 503 for a request that can not wait any longer, or whose queue is full.
cdef void request_overloaded(Visitor *visitor) noexcept nogil
