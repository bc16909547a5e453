# Dialling a link: connect, send the Upgrade request, read the answer. 101 makes a link of
# the connection; anything else is EVENT_DIAL_FAILED.

from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.messages cimport DialMessage


cdef void dial_init_worker(Worker *worker) noexcept nogil
cdef void dial_start(Worker *worker, const DialMessage *message) noexcept nogil
