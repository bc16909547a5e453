# The visitors of one UDP tunnel: found by their address, and in the order they were last heard of.
# Pure but for the structs it is about.
#
# brief    visitors who sent one datagram: most of them have asked something and are gone
# lasting  those who sent more
#
# Either list is ordered by `seen_us`, so who has been silent too long is at its end, and no
# visitor needs a timer.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.datagram cimport DatagramReader
from proxy_engine_core.forward.addresses cimport AddressEntry
from proxy_engine_core.forward.route_stats cimport RouteStats
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.udp cimport UdpLocal
from proxy_engine_core.io.worker cimport Conn
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.quota cimport Quota
from proxy_engine_core.yamux.session cimport YamuxStream


cdef struct UdpVisitor:                   # one address, and its stream
    UdpListener *listener
    UdpVisitor *next                      # hash chain
    UdpVisitor *newer                     # in `brief` or `lasting`
    UdpVisitor *older
    YamuxStream *stream
    Link *link
    AddressEntry *address_entry           # NULL: no limits, no room
    Quota *quota                          # where it counts as a connection; NULL: nowhere
    DatagramReader reader                 # of its stream
    Address address
    UdpLocal local                        # what it sent to
    RouteStats *stats                     # of its route
    uint64_t device
    uint64_t started_us
    uint64_t accepted_us                  # the device has a socket for it; 0: not yet
    uint64_t seen_us                      # last datagram, either way
    uint64_t received_us                  # ... of its own
    uint64_t paid_us                      # bandwidth: what comes before then is lost
    uint64_t bytes_in                     # payload
    uint64_t bytes_out
    uint32_t route
    uint32_t hash
    uint32_t link_us                      # of the time to `accepted_us`, the link's round trip
    bint is_lasting
    uint8_t request_id[32]

cdef struct UdpVisitorList:
    UdpVisitor *newest
    UdpVisitor *oldest

cdef struct UdpListener:                  # the public port of one tunnel
    Conn conn                             # must be first
    uint16_t port
    UdpVisitorList brief
    UdpVisitorList lasting
    UdpVisitor **buckets                  # NULL: none yet
    uint32_t bucket_count                 # a power of two
    uint32_t visitor_count
    uint32_t overruns_seen
    uint32_t route                        # of its visitors; 0: there were none
    uint64_t seed                         # of the hash: visitors choose their ports

cdef UdpVisitor *udp_table_find(
    const UdpListener *listener, const Address *address
) noexcept nogil
# A visitor with this address, new and last seen now. NULL: no memory.
cdef UdpVisitor *udp_table_add(
    UdpListener *listener, const Address *address, uint64_t now_us
) noexcept nogil
cdef void udp_table_remove(UdpVisitor *visitor) noexcept nogil      # and free it
cdef void udp_table_seen(UdpVisitor *visitor, uint64_t now_us) noexcept nogil
cdef void udp_table_lasts(UdpVisitor *visitor) noexcept nogil       # it is no brief one
