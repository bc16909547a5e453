# Visitors of TCP tunnels. Such a connection is a visitor whose transaction has no request: it
# begins where an upgraded one is after its 101, so streams, windows, fairness, half-close, the
# idle time, moves between workers, draining and the log record are those of visitors.
#
#   accepted by a tunnel's listener  -> TCP_OPENING, or first TCP_HEADER: a trusted proxy's
#                                       connection begins with a PROXY protocol header
#   joined by a token (link_request) -> TCP_OPENING
#   TCP_OPENING                      -> TUNNEL: it has a stream
#
# The key of its route is "tcp:" and the port with a colon, or the name of a private tunnel.
# There are no answers of our own and no second tries: what fails is reset.

from libc.stdint cimport uint16_t

from proxy_engine_core.forward.transaction cimport Visitor


# A connection that has just been accepted by the listener of `port`.
cdef void tcp_begin(Visitor *visitor, uint16_t port) noexcept nogil
cdef void tcp_read_header(Visitor *visitor) noexcept nogil         # one step of TCP_HEADER
cdef void tcp_open(Visitor *visitor) noexcept nogil                # one try of TCP_OPENING
