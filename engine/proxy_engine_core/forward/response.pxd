# From the stream to the visitor: what OWNER_HTTP streams do.

from proxy_engine_core.io.worker cimport Worker


cdef void response_init_worker(Worker *worker) noexcept nogil
