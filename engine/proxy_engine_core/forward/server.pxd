# The server role of a worker: visitors, routes and links from devices.

from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.worker cimport Worker


cdef int server_init(Worker *worker) noexcept nogil            # 0, -ENOMEM
# What a message owns that nobody will read any more; the message itself stays.
cdef void server_discard(MailboxNode *message) noexcept nogil
cdef void server_free(Worker *worker) noexcept nogil           # before worker_free
