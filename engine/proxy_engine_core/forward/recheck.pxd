# Connections that are open while a tunnel's options change: those of TCP tunnels, and WebSockets
# behind their 101, have no next request to be asked at.

from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.route cimport Route
from proxy_engine_core.forward.transaction cimport ServerRole


# `route` takes the place of `before`, or of nothing: mark it if its policy may turn visitors
# away that the one before let pass.
cdef void recheck_mark(ServerRole *role, Route *route, const Route *before) noexcept nogil
# At the end of the turn: close the connections that marked routes turn away, all routes in one
# walk. Some thousand routes are often set in one turn.
cdef void recheck_tunnels(ServerRole *role) noexcept nogil
