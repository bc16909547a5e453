# Connections from outside: heads in, routing, request bodies towards the stream.


from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.io.worker cimport Worker


# A visitor without a connection yet: conn_attach() is next. NULL: no memory.
cdef Visitor *visitor_new(Worker *worker) noexcept nogil
cdef void visitor_init_worker(Worker *worker) noexcept nogil
# Drain: idle connections go now, the others after their response.
cdef void visitors_drain(Worker *worker) noexcept nogil
# Whether some visitor has not got all of an answer that is over for us.
cdef bint visitors_owed(Worker *worker) noexcept nogil
