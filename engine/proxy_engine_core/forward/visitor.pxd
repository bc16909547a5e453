# Connections from outside: heads in, routing, request bodies towards the stream.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link cimport LinkSetup


cdef void visitor_init_worker(Worker *worker) noexcept nogil
# The control plane's answer to EVENT_AUTH: a whole HTTP response.
cdef void visitor_auth_reply(
    Visitor *visitor, const uint8_t *response, uint32_t size, bint accept, const LinkSetup *setup
) noexcept nogil
# Drain: idle connections go now, the others after their response.
cdef void visitors_drain(Worker *worker) noexcept nogil
# Whether some visitor has not got all of an answer that is over for us.
cdef bint visitors_owed(Worker *worker) noexcept nogil
