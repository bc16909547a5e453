# The life of a stream: from open (yamux_stream_open, or a YAMUX_EVENT_OPEN) until its
# owner calls yamux_stream_release, which resets it on the wire if it is not closed both
# ways. The session never frees a stream by itself, except in yamux_session_free.

from libc.stdint cimport uint32_t

from proxy_engine_core.yamux.session cimport (
    YAMUX_STREAM_UNACKED, YamuxSession, YamuxStream,
)


cdef enum:
    YAMUX_UNACKED_MAX = 256                    # opens without ACK; stock accept backlog

# NULL: ids exhausted, GoAway received, YAMUX_UNACKED_MAX reached or no memory. `window` is
# what the peer may send at once, if more than was agreed and the budget has it; 0: no more.
cdef YamuxStream *yamux_stream_open(YamuxSession *session, uint32_t window) noexcept nogil
# Send the ACK; once. `window` as above.
cdef int yamux_stream_accept(YamuxStream *stream, uint32_t window) noexcept nogil
# The destination accepted `size` bytes: grants credit in quarter-window steps, and lets
# the window grow if it is too small for the link. 0, -ENOMEM.
cdef int yamux_stream_consume(YamuxStream *stream, uint32_t size) noexcept nogil
# Somebody else keeps what was not consumed yet: its credit comes back as well, but proves
# no need of a larger window.
cdef int yamux_stream_settle(YamuxStream *stream) noexcept nogil
# Give the stream back: RST(code) on the wire unless closed both ways or already reset.
# A stream of the peer's that was never accepted is reset in any case but the last.
cdef void yamux_stream_release(YamuxStream *stream, uint32_t code) noexcept nogil
cdef void yamux_session_free(YamuxSession *session) noexcept nogil  # idempotent; frees all
# The first stream of a chained walk over all, for teardown; NULL when none is left.
cdef YamuxStream *yamux_session_any_stream(YamuxSession *session) noexcept nogil

# Of this package. NULL: no memory.
cdef YamuxStream *stream_create(YamuxSession *session, uint32_t id) noexcept nogil
cdef void stream_destroy(YamuxStream *stream) noexcept nogil

cdef inline void stream_unacked_clear(YamuxStream *stream) noexcept nogil:
    if stream.flags & YAMUX_STREAM_UNACKED:
        stream.flags &= ~YAMUX_STREAM_UNACKED
        stream.session.unacked_count -= 1
