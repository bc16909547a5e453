# UDP sockets: opened, read and written by the batch. A socket never blocks and never queues
# more than the kernel does: what it does not take is lost, and told as a number.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.sys cimport iovec, mmsghdr
from proxy_engine_core.io.worker cimport Conn


cdef enum:
    UDP_BATCH = 32                        # datagrams of one system call
    UDP_CONTROL_SIZE = 64                 # bytes: one in6_pktinfo with its header, and room

cdef struct UdpLocal:                     # where datagrams came to, and answers come from
    uint8_t bytes[16]
    uint8_t size                          # 4 or 16; 0: the socket has one address only
    uint32_t scope                        # interface of a link-local address

cdef struct UdpInput:
    mmsghdr messages[UDP_BATCH]
    iovec spans[UDP_BATCH]
    Address addresses[UDP_BATCH]
    uint8_t control[UDP_BATCH][UDP_CONTROL_SIZE]
    uint8_t *bytes                        # where they are received

cdef struct UdpOutput:                    # datagrams for one address, or of a connected socket
    mmsghdr messages[UDP_BATCH]
    iovec spans[UDP_BATCH]
    uint32_t count
    uint32_t control_size                 # 0: the system chooses where they come from
    Address *address
    uint8_t control[UDP_CONTROL_SIZE]

cdef UdpInput *udp_input_new() noexcept nogil                       # NULL: no memory
cdef void udp_input_free(UdpInput *batch) noexcept nogil            # NULL is none

# A socket that visitors send to, of which nobody else has the port; the fd, or -errno.
cdef int udp_bind(const Address *address) noexcept nogil
cdef int udp_connect(const Address *address) noexcept nogil         # ... that talks to one
# A descriptor more of the same socket.
cdef int udp_share(int fd) noexcept nogil
cdef bint udp_is_wildcard(const Address *address) noexcept nogil

# Datagrams read (> 0); -EAGAIN: there are none (CONN_READABLE is clear); other -errno: what ICMP
# had to say of earlier ones, told once.
cdef int udp_receive(Conn *conn, UdpInput *batch) noexcept nogil
cdef const uint8_t *udp_payload(const UdpInput *batch, int index) noexcept nogil
cdef uint32_t udp_size(const UdpInput *batch, int index) noexcept nogil
# Whether the two came from the same address.
cdef bint udp_same_source(const UdpInput *batch, int one, int other) noexcept nogil
# Where it came to; size 0: the socket was not bound to a wildcard.
cdef void udp_local(const UdpInput *batch, int index, UdpLocal *local) noexcept nogil

# For whom what follows is: an address (NULL: the socket is connected) and where it comes from.
cdef void udp_output_to(
    UdpOutput *batch, Address *address, const UdpLocal *local
) noexcept nogil
cdef void udp_output_put(UdpOutput *batch, uint8_t *bytes, uint32_t size) noexcept nogil
cdef uint32_t udp_output_size(const UdpOutput *batch) noexcept nogil       # bytes of all
# Send and forget what was put. Datagrams lost; *error: what ICMP had to say, or 0.
cdef uint32_t udp_output_send(int fd, UdpOutput *batch, int *error) noexcept nogil
# Datagrams that the kernel had no room for, since the socket was made.
cdef uint32_t udp_overruns(int fd) noexcept nogil
