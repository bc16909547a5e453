# What leaves on a link, in which order, and who has to wait.
#
# Frames are encoded straight into two buffers during the turn and leave at its end, in one
# send each. Frames that pass bulk (yamux/send.pxd) stand in `urgent`, the rest in
# conn.out. What the socket took part of goes on first, but no further than to the end of the
# frame that was cut; then urgent, then the rest. TCP_NOTSENT_LOWAT keeps the kernel's part of
# the queue short.
#
#   conn.out:  headroom | sealed: being sent | open: frames that urgent ones still pass
#
# On a WebSocket carrier what is sealed becomes one binary message: its header goes into
# the headroom, the mask over it just before the send. Messages are short, because one
# can not be left in its middle.
#
# Backpressure and turns: a source of bulk that finds LINK_OUT_HIGH bytes in conn.out queues
# up in `waiting`. Below LINK_OUT_LOW the first ones are woken, each for LINK_QUANTUM bytes;
# then it queues up again. What passes bulk need not wait for it. The link itself is always
# read.

from libc.stdint cimport uint32_t

from proxy_engine_core.buffer cimport buffer_size
from proxy_engine_core.io.conn cimport conn_mark_dirty, conn_owed
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.yamux.send cimport YAMUX_FRAME_PAYLOAD_MAX, yamux_stream_urgent_size
from proxy_engine_core.yamux.session cimport YamuxStream


cdef enum:
    LINK_OUT_HIGH = 256 * 1024            # bytes waiting: sources stop
    LINK_OUT_LOW = 64 * 1024              # ... and go on
    LINK_QUANTUM = 64 * 1024              # bytes of one source while others wait
    LINK_OUT_MAX = 8 * 1024 * 1024        # control frames ignored by the peer: drop the link

cdef inline void link_touch(Link *link) noexcept nogil:
    # Call after anything that may have put frames into conn.out.
    conn_mark_dirty(&link.conn)

cdef inline uint32_t link_waiting_size(const Link *link) noexcept nogil:
    return conn_owed(&link.conn) + buffer_size(&link.urgent)

cdef inline bint link_is_full(const Link *link, const YamuxStream *stream) noexcept nogil:
    # Whether a source of this stream, or of a new one (NULL), must wait with more.
    if stream == NULL or yamux_stream_urgent_size(stream):
        return buffer_size(&link.urgent) >= LINK_OUT_HIGH
    return buffer_size(&link.conn.out) >= LINK_OUT_HIGH

cdef inline uint32_t link_allowance(const Link *link, const YamuxStream *stream) noexcept nogil:
    # How much a source that need not wait may put on its stream in one go. While others
    # wait, no more of it than passes them.
    cdef uint32_t most = YAMUX_FRAME_PAYLOAD_MAX
    if buffer_size(&link.conn.out) > LINK_OUT_LOW and yamux_stream_urgent_size(stream):
        most = yamux_stream_urgent_size(stream)
    return min(most, stream.send_window)

cdef inline bint link_turn_is_over(const Link *link, uint32_t moved) noexcept nogil:
    # A source that has moved this much now: the next one's turn. It queues up again.
    return moved >= LINK_QUANTUM and link.waiting.first != NULL

# Send what the socket takes and wake the sources there is room for again. 0, or -errno: the
# connection is lost.
cdef int output_flush(Link *link) noexcept nogil
# A WebSocket close, if it is a WebSocket and nothing waits before it. Best effort.
cdef void output_close(Link *link) noexcept nogil
