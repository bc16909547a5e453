# A visitor's request head: read, parsed once, routed and put on a stream.

from libc.stdint cimport uint64_t

from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link


# VISITOR_HEAD: look at the input, read more, and begin the request when its head is in.
cdef void read_head(Visitor *visitor) noexcept nogil
cdef void new_request_id(Visitor *visitor) noexcept nogil
# 503 for a request that can not wait any longer, or whose queue is full.
cdef void request_overloaded(Visitor *visitor) noexcept nogil
# A live link of this worker's; several take turns by chance, `last_choice` only if there is
# no other. NULL: none here.
cdef Link *live_link(Worker *worker, const Route *route, uint64_t last_choice) noexcept nogil
# The worker of a link that is not this one's, alive or not; -1: there is none.
cdef int other_worker(Worker *worker, const Route *route) noexcept nogil
# Wait in line for a stream of the link, at most open_timeout_ms. False: the line is full.
cdef bint wait_for_stream(Visitor *visitor, Link *link) noexcept nogil
# The time it may wait starts, once.
cdef void start_waiting(Visitor *visitor) noexcept nogil
