# A routed request and a stream of its link: it waits in line for one, gets one, and its rewritten
# head goes onto it.

from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.transaction cimport HttpStream, Visitor
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.http1.rewrite cimport RequestRewrite
from proxy_engine_core.link.link cimport Link


# Wait in line for a stream of the link, at most open_timeout_ms. False: the line is full.
cdef bint wait_for_stream(Visitor *visitor, Link *link) noexcept nogil
# The time it may wait starts, once.
cdef void start_waiting(Visitor *visitor) noexcept nogil
# 503 for a request that can not wait any longer, or whose queue is full.
cdef void request_overloaded(Visitor *visitor) noexcept nogil
cdef void request_no_memory(Visitor *visitor) noexcept nogil
# A stream with room for the head as `rewrite` makes it: filled in here, but for its edit. NULL:
# none now.
cdef HttpStream *take_stream(
    Visitor *visitor, Link *link, const Route *route, Head *head, RequestRewrite *rewrite
) noexcept nogil
# Put the rewritten head on the stream; False: no memory, the transaction has ended.
cdef bint forward_head(
    Visitor *visitor, HttpStream *http, const Head *head, const RequestRewrite *rewrite
) noexcept nogil
