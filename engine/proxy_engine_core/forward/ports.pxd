# Public ports of tunnels, of TCP and UDP. One that there is no memory for, here or in the kernel,
# is missing, with nobody to ask for it again; so it is tried again, each turn and each 10 ms, until
# it opens, is closed, or the worker drains.

from proxy_engine_core.forward.transaction cimport ServerRole
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.messages cimport TcpListenMessage


# True: kept, to be tried again.
cdef bint port_open(Worker *worker, TcpListenMessage *message) noexcept nogil
cdef void port_close(Worker *worker, const TcpListenMessage *message) noexcept nogil
cdef void ports_retry(Worker *worker) noexcept nogil
# Close and free those that wait.
cdef void ports_forget(ServerRole *role) noexcept nogil
