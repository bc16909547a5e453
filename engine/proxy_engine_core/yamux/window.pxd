# Window arithmetic of one stream, all of it, in checked u32.
#
# Receiving, every byte the peer may ever send is in exactly one place:
#
#   receive_window -> in flight -> unconsumed -> ungranted -> receive_window
#       a header arrives | payload is delivered | the destination takes it | we grant it
#
# so receive_window + unconsumed + ungranted + (announced, not yet delivered) is
# always the session's window. Sending, send_window falls by every byte that enters
# the output buffer and grows only by the peer's WindowUpdate frames.

from libc.stdint cimport uint32_t

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.yamux.session cimport YamuxStream


cdef enum:
    # 1 / this of the window is granted at once. A half would let a sender run dry for
    # part of every round trip; an eighth doubles the update frames for nothing.
    WINDOW_GRANT_PART = 4


cdef inline bint window_announce(YamuxStream *stream, uint32_t size) noexcept nogil:
    # A Data header promises `size` bytes; False: more than we granted.
    if size > stream.receive_window:
        return False
    stream.receive_window -= size
    return True


cdef inline void window_deliver(YamuxStream *stream, uint32_t size) noexcept nogil:
    stream.unconsumed += size
    CHECK(
        <unsigned long long>stream.receive_window + stream.unconsumed + stream.ungranted
        <= stream.session.window
    )


cdef inline void window_consume(YamuxStream *stream, uint32_t size) noexcept nogil:
    CHECK(size <= stream.unconsumed)
    stream.unconsumed -= size
    stream.ungranted += size


cdef inline bint window_should_grant(const YamuxStream *stream) noexcept nogil:
    return stream.ungranted != 0 and (
        stream.ungranted >= stream.session.window // WINDOW_GRANT_PART
    )


cdef inline void window_grant(YamuxStream *stream) noexcept nogil:
    # The grant of `ungranted` bytes is on its way.
    stream.receive_window += stream.ungranted
    stream.ungranted = 0


cdef inline bint window_grow(YamuxStream *stream, uint32_t delta) noexcept nogil:
    # The peer grants `delta` more bytes; False: beyond 2^32-1.
    if delta > <uint32_t>0xFFFFFFFF - stream.send_window:
        return False
    stream.send_window += delta
    return True


cdef inline void window_spend(YamuxStream *stream, uint32_t size) noexcept nogil:
    CHECK(size <= stream.send_window)
    stream.send_window -= size
