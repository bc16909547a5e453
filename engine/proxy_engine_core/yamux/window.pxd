# The window of one stream: its arithmetic, all of it in checked u32, and its size.
#
# Receiving, every byte the peer may ever send is in exactly one place:
#
#   receive_window -> in flight -> unconsumed -> ungranted -> receive_window
#       a header arrives | payload is delivered | the destination takes it | we grant it
#
# so receive_window + unconsumed + ungranted + (announced, not yet delivered) is
# always the stream's window. The window grows by putting credit into `ungranted` that
# was never received, and shrinks by taking granted-back credit out of it again: credit
# on its way can not be revoked. Sending, send_window falls by every byte that enters
# the output buffer and grows only by the peer's WindowUpdate frames.
#
# The rule (docs/adr/0006): when the destination took more than 0.6 of the window within
# a round trip and little of it had to wait here, the window may be what holds it back,
# so it doubles. Nothing but bytes that somebody took makes it grow, so a reader that
# stalls holds back what it has proved to need, never more. It comes back down to what a
# stream starts with when it was not put to use for WINDOW_QUIET_US, and to what was
# agreed when memory is short.

from libc.stdint cimport uint32_t

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.yamux.session cimport YamuxStream


cdef enum:
    # 1 / this of the window is granted at once. A half would let a sender run dry for
    # part of every round trip; an eighth doubles the update frames for nothing.
    WINDOW_GRANT_PART = 4
    # 6 / 10 of the window delivered within a round trip: with updates every quarter a
    # sender that is held back by nothing but the window delivers more than that.
    WINDOW_BUSY_TENTHS = 6
    # With more than 1 / this of the window waiting, it is the destination that holds the
    # stream back: bursts in which it takes what has piled up say nothing about the link.
    WINDOW_BEHIND_PART = 4
    # 1 / this of the window a round trip is use enough to keep it.
    WINDOW_QUIET_PART = 8
    WINDOW_QUIET_US = 10_000_000


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
        <= stream.window
    )


cdef inline void window_consume(YamuxStream *stream, uint32_t size) noexcept nogil:
    CHECK(size <= stream.unconsumed)
    stream.unconsumed -= size
    stream.ungranted += size


cdef inline bint window_should_grant(const YamuxStream *stream) noexcept nogil:
    return stream.ungranted != 0 and stream.ungranted >= stream.window // WINDOW_GRANT_PART


cdef inline void window_grant(YamuxStream *stream, uint32_t size) noexcept nogil:
    # The grant of `size` ungranted bytes is on its way.
    CHECK(size <= stream.ungranted)
    stream.receive_window += size
    stream.ungranted -= size


cdef inline bint window_grow(YamuxStream *stream, uint32_t delta) noexcept nogil:
    # The peer grants `delta` more bytes; False: beyond 2^32-1.
    if delta > <uint32_t>0xFFFFFFFF - stream.send_window:
        return False
    stream.send_window += delta
    return True


cdef inline void window_spend(YamuxStream *stream, uint32_t size) noexcept nogil:
    CHECK(size <= stream.send_window)
    stream.send_window -= size


# Lend the window up to `size` bytes of the budget, to be granted; bytes lent.
cdef uint32_t window_widen(YamuxStream *stream, uint32_t size) noexcept nogil
# The destination took `size` bytes: what that says about the window. Needs a budget.
cdef void window_measure(YamuxStream *stream, uint32_t size) noexcept nogil
# The stream ends: its part of the budget is free again.
cdef void window_forget(YamuxStream *stream) noexcept nogil
