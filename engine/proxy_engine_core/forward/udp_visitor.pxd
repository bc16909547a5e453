# One visitor of a UDP tunnel, from its first datagram to its record in the request log: who is
# let in, the stream it gets, what it has to pay for.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.forward.udp_table cimport UdpListener, UdpVisitor
from proxy_engine_core.io.udp cimport UdpInput


# The sender of this datagram, with a stream to the device. NULL: turned away.
cdef UdpVisitor *udp_visitor_open(
    UdpListener *listener, const UdpInput *batch, int index
) noexcept nogil
# Whether so many bytes may pass by the quota of the link. Here nobody waits: in debt, what
# comes is lost.
cdef bint udp_visitor_pays(UdpVisitor *visitor, uint32_t size) noexcept nogil
# So much payload has passed.
cdef void udp_visitor_count(
    UdpVisitor *visitor, uint64_t bytes_in, uint64_t bytes_out
) noexcept nogil
# Log it, give its stream back, and free it. `reason`: b"" for an ordinary end; `code`: the
# device hears it.
cdef void udp_visitor_end(UdpVisitor *visitor, const char *reason) noexcept nogil
cdef void udp_visitor_reset(UdpVisitor *visitor, const char *reason, uint32_t code) noexcept nogil
# Free one whose stream has gone with its link, when the worker stops.
cdef void udp_visitor_forget(UdpVisitor *visitor) noexcept nogil
