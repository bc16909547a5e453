# The control stream: stream 1 of a link with our agent, records of both control planes. A
# record is a big-endian 32-bit length and that many bytes (docs/protocol.md).

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.link.link cimport Link, StreamOps
from proxy_engine_core.yamux.session cimport YamuxStream


cdef enum:
    CONTROL_STREAM_ID = 1
    CONTROL_RECORD_SIZE_MAX = 64 * 1024

cdef void control_init_worker(StreamOps *ops) noexcept nogil
cdef int control_open(Link *link) noexcept nogil               # device; 0, -ENOMEM
cdef void control_accept(Link *link, YamuxStream *stream) noexcept nogil           # server
# Each record in comes out of EVENT_CONTROL. Credit for what was read, unless Python is behind:
# events are never dropped, so a device that floods it has to stop by its window.
cdef void control_grant(Link *link) noexcept nogil
# This may end the link, for want of memory or of a peer that reads; and so may the next.
cdef void link_send_control(Link *link, const uint8_t *record, uint32_t size) noexcept nogil
# What we sent on a direct connection, by the peer's name, has ended and not broken off.
cdef void link_send_ended(Link *link, uint64_t name) noexcept nogil
