# Where a request goes: its route, and a link or a worker that serves it.

from libc.stdint cimport uint64_t

from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.transaction cimport ServerRole
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link


# By X-Proxy-Tunnel, else Host, else the default; NULL: none.
cdef Route *find_route(ServerRole *role, const Head *head) noexcept nogil
# A live link of this worker's; several take turns by chance, `last_choice` only if there is
# no other. NULL: none here.
cdef Link *live_link(Worker *worker, const Route *route, uint64_t last_choice) noexcept nogil
# The worker of a link that is not this one's, alive or not; -1: there is none.
cdef int other_worker(Worker *worker, const Route *route) noexcept nogil
