# One yamux session against what a hostile peer may send.
#
# Input: one byte that cuts, one of options, then frames:
#     bit 0  the session is a client, else a server
#     bit 1  two streams of ours are open, and a ping of ours is in flight
#     bit 2  the owner consumes and sends back what it receives, and finishes
#     bit 3  the owner releases some streams in the middle of events
#     bit 4  a window of 1000 bytes and three streams at most
#     bit 5  windows grow, on a budget and with a clock
#
# Permitted: any events in their legal order, then nothing or exactly one of the session's errors
# except "memory", which repeats. All input is used up unless there is an error. What we answer
# must satisfy a fresh session of the other role up to the first error that only its missing
# context explains (pongs of pings it never sent, frames of streams it does not know), never
# "version" or "type". In the end nothing is left: no stream, no bucket, no buffer, and no credit
# that is still lent.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from input cimport REQUIRE, Pieces, exact, pieces_free, pieces_init, pieces_next
from proxy_engine_core.buffer cimport (
    Buffer, BufferPool, buffer_free, buffer_head, buffer_init, buffer_pool_free, buffer_pool_init,
    buffer_size,
)
from proxy_engine_core.yamux.receive cimport (
    YAMUX_EVENT_DATA, YAMUX_EVENT_FIN, YAMUX_EVENT_GO_AWAY, YAMUX_EVENT_NEED_MORE,
    YAMUX_EVENT_OPEN, YAMUX_EVENT_PONG, YAMUX_EVENT_RESET, YamuxEvent, yamux_session_next,
)
from proxy_engine_core.yamux.send cimport (
    yamux_session_ping, yamux_stream_finish, yamux_stream_send,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_ERROR_MEMORY, YAMUX_ERROR_TYPE, YAMUX_ERROR_VERSION, YAMUX_WINDOW_INITIAL, WindowBudget,
    YamuxSession, YamuxStream, yamux_session_init, yamux_session_tune,
)
from proxy_engine_core.yamux.stream cimport (
    yamux_session_any_stream, yamux_session_free, yamux_stream_accept, yamux_stream_consume,
    yamux_stream_open, yamux_stream_release,
)

cdef enum:
    OURS = 1                              # owner_kind of the streams we know of
    FINISHED = 2                          # ... after FIN
    RESET = 3
    WINDOW_START = 512 * 1024             # with a budget
    OUT_MAX = 4 << 20                     # bytes; a link would stop reading long before

cdef struct Owner:
    YamuxSession *session
    WindowBudget budget
    uint64_t clock_us
    uint32_t event_count
    bint echoes
    bint releases


cdef void release(Owner *owner, YamuxStream *stream) noexcept nogil:
    yamux_stream_release(stream, owner.event_count & 0xFF)


cdef void on_event(Owner *owner, int kind, YamuxEvent *event) noexcept nogil:
    cdef YamuxStream *stream = event.stream
    cdef uint32_t room
    owner.event_count += 1
    owner.clock_us += 1 + owner.event_count * 4099 % 1_000_000
    if kind in (YAMUX_EVENT_PONG, YAMUX_EVENT_GO_AWAY):
        return
    REQUIRE(stream != NULL and stream.session == owner.session)
    if kind == YAMUX_EVENT_OPEN:
        REQUIRE(stream.owner_kind == 0)
        stream.owner_kind = OURS
        if owner.echoes:
            REQUIRE(yamux_stream_accept(stream, WINDOW_START) == 0)
    REQUIRE(stream.owner_kind in (OURS, FINISHED))    # nothing comes after a reset
    if kind == YAMUX_EVENT_DATA:
        REQUIRE(event.size > 0 and stream.owner_kind == OURS)
        if owner.echoes:
            room = stream.send_window if stream.send_window < event.size else <uint32_t>event.size
            REQUIRE(yamux_stream_send(stream, event.data, room) == 0)
            REQUIRE(yamux_stream_consume(stream, <uint32_t>event.size) == 0)
    elif kind == YAMUX_EVENT_FIN or kind == YAMUX_EVENT_RESET:
        REQUIRE(kind == YAMUX_EVENT_RESET or stream.owner_kind == OURS)
        stream.owner_kind = FINISHED if kind == YAMUX_EVENT_FIN else RESET
        if owner.echoes:
            REQUIRE(yamux_stream_finish(stream) == 0)
            release(owner, stream)
            return
    if owner.releases and owner.event_count % 3 == 0:
        release(owner, stream)


cdef void check_answer(const uint8_t *bytes, uint32_t size, bint is_client) noexcept nogil:
    """Whatever we said, a peer of ours reads it as frames."""
    cdef BufferPool pool
    cdef Buffer out
    cdef YamuxSession session
    cdef YamuxEvent event
    cdef uint8_t *copy = exact(bytes, size)
    cdef uint8_t *cursor = copy
    cdef int kind = YAMUX_EVENT_OPEN
    buffer_pool_init(&pool)
    buffer_init(&out, &pool, 0)
    yamux_session_init(&session, is_client, &out, &out, 0xFFFFFF, 1 << 20)
    while kind > YAMUX_EVENT_NEED_MORE:
        kind = yamux_session_next(&session, &cursor, copy + size, &event)
    REQUIRE(kind not in (YAMUX_ERROR_MEMORY, YAMUX_ERROR_VERSION, YAMUX_ERROR_TYPE))
    yamux_session_free(&session)
    buffer_free(&out)
    REQUIRE(pool.bytes_lent == 0)
    buffer_pool_free(&pool)
    free(copy)


cdef int receive(
    Owner *owner, Buffer *out, const uint8_t *data, size_t size, uint8_t choice
) noexcept nogil:
    cdef Pieces pieces
    cdef YamuxEvent event
    cdef uint8_t *piece
    cdef uint8_t *cursor
    cdef uint8_t *end = NULL
    cdef int kind = YAMUX_EVENT_NEED_MORE
    pieces_init(&pieces, data, size, choice)
    while kind >= 0 and buffer_size(out) < OUT_MAX:
        piece = pieces_next(&pieces, &end)
        if piece == NULL:
            break
        cursor = piece
        while True:
            kind = yamux_session_next(owner.session, &cursor, end, &event)
            REQUIRE(piece <= cursor <= end)
            if kind <= 0:
                break
            on_event(owner, kind, &event)
        REQUIRE(kind < 0 or cursor == end)
    pieces_free(&pieces)
    return kind


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef BufferPool pool
    cdef Buffer out
    cdef YamuxSession session
    cdef YamuxStream *stream
    cdef YamuxEvent event
    cdef Owner owner
    cdef uint8_t *cursor = NULL
    cdef uint8_t options
    cdef int kind, index
    if size < 2 or size > 65_000:
        return 0
    options = data[1]
    buffer_pool_init(&pool)
    buffer_init(&out, &pool, 0)
    yamux_session_init(
        &session, options & 1, &out, &out, 1000 if options & 16 else YAMUX_WINDOW_INITIAL,
        3 if options & 16 else 64,
    )
    memset(&owner, 0, sizeof(owner))
    owner.session = &session
    owner.clock_us = 1
    owner.echoes = (options & 4) != 0
    owner.releases = (options & 8) != 0
    if options & 32:
        owner.budget.clock_us = &owner.clock_us
        owner.budget.extra_max = 2 << 20
        owner.budget.session_max = 1 << 20
        owner.budget.stream_max = 1 << 20
        owner.budget.is_short = data[0] & 128
        yamux_session_tune(&session, &owner.budget, WINDOW_START)
        session.rtt_us = 1000 * (data[0] & 127)
    if options & 2:
        for index in range(2):
            stream = yamux_stream_open(&session, WINDOW_START * index)
            REQUIRE(stream != NULL)
            stream.owner_kind = OURS
        REQUIRE(yamux_session_ping(&session, 7) == 0)
    kind = receive(&owner, &out, data + 2, size - 2, data[0])
    REQUIRE(kind <= 0 and kind != YAMUX_ERROR_MEMORY)
    if kind < 0:
        REQUIRE(yamux_session_next(&session, &cursor, NULL, &event) == kind)
    while True:
        stream = yamux_session_any_stream(&session)
        if stream == NULL:
            break
        REQUIRE(stream.owner_kind != 0)
        release(&owner, stream)
    REQUIRE(session.stream_count == 0 and session.unacked_count == 0)
    check_answer(buffer_head(&out), buffer_size(&out), not options & 1)
    yamux_session_free(&session)
    REQUIRE(session.bucket_count == 0)
    REQUIRE(owner.budget.extra == 0 and session.extra == 0)
    buffer_free(&out)
    REQUIRE(pool.bytes_lent == 0)
    buffer_pool_free(&pool)
    return 0
