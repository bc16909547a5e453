# Visitors of TCP tunnels on direct connections (direct_pool.pxd). To the device go our name of the
# connection, the same PROXY protocol header that a stream begins with, and behind it what the
# visitor says; the device answers with one byte, 0 or a reset code, when the target is
# connected, and behind the 0 with its name of the connection. From there on both ways are
# relayed (io/relay.pxd): no frames, no windows. A break is passed on as a reset, an end as an
# end: but only when CONTROL_ENDED on the link says that it is one, and not a process that was
# killed. Time limits, log record and limits are those of any visitor.
#
#   TCP_OPENING -> DIRECT -> closed

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link


cdef void direct_init_worker(Worker *worker) noexcept nogil
# A device's connection for later, at /_proxy/data.
cdef bint asks_for_data(const Head *head) noexcept nogil
cdef void data_arrive(
    Visitor *visitor, const Head *head, const uint8_t *bytes, uint32_t head_size
) noexcept nogil
# Send the visitor that way, with `preamble` first; False: there is none, a stream has to do.
cdef bint direct_open(
    Visitor *visitor, Link *link, const Profile *profile, const uint8_t *preamble, uint32_t size
) noexcept nogil
cdef void direct_run(Visitor *visitor) noexcept nogil           # one step of DIRECT
cdef bint data_ended(Link *link, uint64_t name) noexcept nogil  # LinkHost.ended
cdef void direct_close(Link *link) noexcept nogil               # LinkHost.closed: the link is going
