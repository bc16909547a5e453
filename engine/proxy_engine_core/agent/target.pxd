# The device's end of a stream: its preamble names a tunnel, the tunnel's target is
# connected, then bytes go both ways with half-close until both sides are done.
#
#   PREAMBLE -> CONNECTING -> OPEN         no connection of its own before CONNECTING

from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.yamux.session cimport YamuxStream


cdef void target_init_worker(Worker *worker) noexcept nogil
cdef void target_open(Link *link, YamuxStream *stream) noexcept nogil   # LinkHost.opened
