# The device's end of a UDP visitor's stream: a socket of its own, connected to the target, so
# the target sees one address for each visitor. See forward/udp.pxd.
#
# What the target sends waits in the kernel while the link or the stream has no room; what comes
# from the stream and the socket does not take is lost and counted. An error that ICMP reports
# does not end it: the service may be back with the next datagram. Until something has answered,
# the next address of the target's name is tried instead.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.agent.role cimport AgentRole
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.yamux.session cimport YamuxStream


cdef void udp_target_init_worker(Worker *worker) noexcept nogil
cdef void udp_target_free(AgentRole *role) noexcept nogil
# A stream whose preamble is read, and what came behind it. The stream is taken over.
cdef void udp_target_open(
    YamuxStream *stream, uint32_t entry, uint8_t *bytes, uint32_t size
) noexcept nogil
