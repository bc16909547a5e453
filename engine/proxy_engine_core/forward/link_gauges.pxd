# How the links of a worker are now. Nobody keeps count: the control plane asks for a look when
# somebody wants to know.

from proxy_engine_core.io.worker cimport Worker


# Look at all links: ServerRole.links_seen, for Python to read.
cdef void look_at_links(Worker *worker) noexcept nogil
