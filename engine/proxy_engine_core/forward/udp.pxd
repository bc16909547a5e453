# UDP tunnels: a public port, and a stream for each visitor address.
#
#   visitor --datagram--> listener --length, datagram--> stream of its address --> device
#   visitor <--datagram-- listener <--length, datagram-- stream                <-- device
#
# The socket of a port is read by one worker, where a link of its route is (udp_ports.pyx), and
# only links of that worker are used: a visitor's datagrams stay in order, and the target sees
# one address for each visitor. Nothing waits here: a datagram that its stream, the link or the
# visitor's socket does not take at once is lost and counted, as the network would have lost it.
#
# A visitor ends with its link, with its listener, by a word of the device, or by silence; then
# it has a record in the request log (udp_visitor.pyx).

from libc.stdint cimport uint16_t, uint32_t

from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.transaction cimport ServerRole
from proxy_engine_core.forward.udp_table cimport UdpListener
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link


cdef void udp_init_worker(Worker *worker) noexcept nogil
cdef void udp_free(ServerRole *role) noexcept nogil
# Read from a bound socket, which is taken over. 0, or -errno: the fd is still the caller's.
cdef int udp_listen(Worker *worker, int fd, uint16_t port) noexcept nogil
cdef void udp_close(Worker *worker, uint16_t port) noexcept nogil    # and end its visitors
cdef void udp_close_all(Worker *worker) noexcept nogil
# A tunnel's target has become another: end the visitors it has over this link.
cdef void udp_flush(const Link *link, uint32_t route) noexcept nogil
# The tunnel's options are these now: end the visitors that may not be here any more.
cdef void udp_recheck(UdpListener *listener, const Policy *policy) noexcept nogil
