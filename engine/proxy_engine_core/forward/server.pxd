# The server role of a worker: visitors, routes and links from devices.

from proxy_engine_core.io.worker cimport Worker


cdef int server_init(Worker *worker) noexcept nogil            # 0, -ENOMEM
cdef void server_free(Worker *worker) noexcept nogil           # before worker_free
