# See pool.pxd.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.buffer cimport buffer_size
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_IDLE_STREAMS_CLOSED, COUNT_IDLE_STREAMS_LOST, COUNT_LINKS_SPENT, COUNT_MEMORY_ERRORS,
    COUNT_STREAMS_OPENED,
    COUNT_STREAMS_REUSED, count,
)
from proxy_engine_core.forward.idle cimport (
    IdleLimit, idle_keep_us, idle_limit_closed, idle_limit_init, idle_limit_survived,
    idle_limit_told,
)
from proxy_engine_core.events cimport EVENT_LINK_SPENT
from proxy_engine_core.forward.route cimport Route, route_name, route_profile
from proxy_engine_core.forward.transaction cimport (
    HttpStream, StreamPool, Transaction, Visitor,
)
from proxy_engine_core.io.conn cimport conn_deadline, conn_requeue
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.end cimport link_close
from proxy_engine_core.link.link cimport OWNER_HTTP, Link, link_of
from proxy_engine_core.link.output cimport link_touch
from proxy_engine_core.proxy_protocol cimport PREAMBLE_HTTP_SIZE_MAX, preamble_encode
from proxy_engine_core.quota cimport quota_has_bandwidth
from proxy_engine_core.yamux.send cimport yamux_stream_send
from proxy_engine_core.yamux.session cimport YAMUX_RESET_CANCEL, YamuxStream
from proxy_engine_core.yamux.stream cimport (
    YAMUX_UNACKED_MAX, yamux_stream_open, yamux_stream_release,
)


cdef StreamPool *pool_of(Link *link, uint32_t route) noexcept nogil:
    # Most devices have a handful of tunnels: a list, where those in use stand in front.
    cdef StreamPool *pool = <StreamPool *>link.pools
    cdef StreamPool *before = NULL
    while pool != NULL and pool.route != route:
        before = pool
        pool = pool.next
    if pool != NULL and before != NULL:
        before.next = pool.next
        pool.next = <StreamPool *>link.pools
        link.pools = pool
    if pool == NULL:
        pool = <StreamPool *>calloc(1, sizeof(StreamPool))
        if pool != NULL:
            pool.route = route
            idle_limit_init(
                &pool.idle, link.conn.worker.options.pool_idle_ms,
                link.conn.worker.options.pool_idle_max_ms,
            )
            pool.next = <StreamPool *>link.pools
            link.pools = pool
    return pool


cdef void unlink(HttpStream *http) noexcept nogil:
    cdef StreamPool *pool = http.pool
    if http.newer != NULL:
        http.newer.older = http.older
    else:
        pool.newest = http.older
    if http.older != NULL:
        http.older.newer = http.newer
    else:
        pool.oldest = http.newer
    http.newer = NULL
    http.older = NULL
    pool.count -= 1


cdef void make_room(Link *link) noexcept nogil:
    """Close the stream that has been idle longest, whatever tunnel it is of."""
    cdef StreamPool *pool = <StreamPool *>link.pools
    cdef HttpStream *oldest = NULL
    while pool != NULL:
        if pool.oldest != NULL and (
            oldest == NULL or pool.oldest.idle_since_us < oldest.idle_since_us
        ):
            oldest = pool.oldest
        pool = pool.next
    if oldest == NULL:
        return
    unlink(oldest)
    yamux_stream_release(oldest.stream, YAMUX_RESET_CANCEL)
    free(oldest)


cdef bint pool_is_full(const Link *link) noexcept nogil:
    return (
        link.session.unacked_count >= YAMUX_UNACKED_MAX
        or link.session.stream_count >= link.streams_max
        or link.session.next_id == 0       # all ids are used up
    )


cdef HttpStream *pool_take(
    Link *link, const Route *route, uint32_t head_size, uint32_t idle_divisor
) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = pool_of(link, route.id)
    cdef HttpStream *http
    cdef uint8_t preamble[PREAMBLE_HTTP_SIZE_MAX]
    cdef uint32_t preamble_size = 0
    if pool == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    http = pool.newest
    if (
        http != NULL and idle_divisor
        and worker.now_us - http.idle_since_us < pool.idle.limit_us // idle_divisor
        and http.stream.send_window >= head_size
    ):
        unlink(http)
        link.requests += 1
        http.is_reused = True
        http.idled_us = worker.now_us - http.idle_since_us
        count(worker.counters, COUNT_STREAMS_REUSED, 1)
        return http
    if link.has_preamble:
        preamble_size = preamble_encode(
            preamble, route_name(route), route.name_size, route_profile(route).id
        )
    return pool_open(link, route, preamble, preamble_size)


cdef HttpStream *pool_open(
    Link *link, const Route *route, const uint8_t *preamble, uint32_t preamble_size
) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = pool_of(link, route.id)
    cdef HttpStream *http = NULL
    cdef YamuxStream *stream = NULL
    if pool != NULL:
        http = <HttpStream *>calloc(1, sizeof(HttpStream))
    if http == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    http.profile = route_profile(route)
    stream = pool_stream(link, http.profile)
    if stream == NULL:
        free(http)
        return NULL
    link.requests += 1
    http.stream = stream
    http.pool = pool
    http.flushes = pool.flushes
    stream.owner = http
    stream.owner_kind = OWNER_HTTP
    if preamble_size and yamux_stream_send(stream, preamble, preamble_size) < 0:
        http_stream_release(http, YAMUX_RESET_CANCEL)
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    return http


cdef YamuxStream *pool_stream(Link *link, const Profile *profile) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef YamuxStream *stream
    cdef uint32_t window
    if link.session.unacked_count < YAMUX_UNACKED_MAX and pool_is_full(link):
        make_room(link)
    if pool_is_full(link):
        return NULL
    window = link.session.window_start
    if profile.is_fixed or quota_has_bandwidth(link.quota):
        window = link.session.window      # what comes before it is paid for: no more of it
    stream = yamux_stream_open(&link.session, window)
    if stream == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    stream.is_fixed = profile.is_fixed
    if stream.id // 2 >= worker.options.link_streams_max and not link.is_spent:
        # Long before its ids run out: the device makes another link, and this one ends.
        link.is_spent = True
        count(worker.counters, COUNT_LINKS_SPENT, 1)
        news_event(worker, EVENT_LINK_SPENT, link.id, 0, 0, 0, 0, NULL, 0, NULL, 0)
    link_touch(link)
    count(worker.counters, COUNT_STREAMS_OPENED, 1)
    return stream


cdef void pool_put(HttpStream *http) noexcept nogil:
    cdef Link *link = link_of(http.stream)
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = http.pool
    http.visitor = NULL
    if (
        link.is_draining or pool.idle.limit_us == 0 or http.flushes != pool.flushes
        or pool.count >= worker.options.pool_streams_max
    ):
        http_stream_release(http, YAMUX_RESET_CANCEL)
        return
    link.requests -= 1
    http.idle_since_us = worker.now_us
    http.older = pool.newest
    if pool.newest != NULL:
        pool.newest.newer = http
    else:
        pool.oldest = http
    pool.newest = http
    pool.count += 1
    look_again(link, &pool.idle)
    pool_wake(link)


cdef void look_again(Link *link, const IdleLimit *idle) noexcept nogil:
    # A stream of this pool may have idled too long before the link's timer comes round.
    cdef uint64_t after_ms = idle_keep_us(idle) // 1000 + 1
    if link.conn.timer.deadline_ms > link.conn.worker.now_ms + after_ms:
        conn_deadline(&link.conn, after_ms)


cdef void http_stream_release(HttpStream *http, uint32_t code) noexcept nogil:
    cdef Link *link = link_of(http.stream)
    cdef StreamPool *pool = http.pool
    if http.newer != NULL or http.older != NULL or pool.newest == http:
        unlink(http)
    else:
        link.requests -= 1
        close_soon_if_idle(link)
    yamux_stream_release(http.stream, code)
    free(http)
    link_touch(link)
    pool_wake(link)


cdef void close_soon_if_idle(Link *link) noexcept nogil:
    # By its timer: whoever released the last stream still has the link in hand.
    if link.closes_when_idle and link.requests == 0 and not link.is_closing:
        conn_deadline(&link.conn, 1)


cdef void pool_housekeep(Link *link) noexcept nogil:
    if link.closes_when_idle and link.requests == 0:
        link_close(link, b"drained")
    else:
        pool_trim(link)


cdef void pool_trim(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = <StreamPool *>link.pools
    cdef uint64_t idled_us
    while pool != NULL:
        while pool.oldest != NULL:
            idled_us = worker.now_us - pool.oldest.idle_since_us
            if idled_us < idle_keep_us(&pool.idle):
                look_again(link, &pool.idle)
                break
            http_stream_release(pool.oldest, YAMUX_RESET_CANCEL)
            idle_limit_survived(&pool.idle, idled_us, worker.now_us)
        pool = pool.next
    pool_wake(link)


cdef void pool_stream_lost(HttpStream *http) noexcept nogil:
    cdef Worker *worker = link_of(http.stream).conn.worker
    cdef Transaction *transaction
    if http.visitor == NULL:
        count(worker.counters, COUNT_IDLE_STREAMS_CLOSED, 1)
        idle_limit_closed(&http.pool.idle, worker.now_us - http.idle_since_us, worker.now_us)
        return
    transaction = http.visitor.transaction
    # Its end crossed the request: it had idled too long already.
    if (
        http.is_reused and transaction.first_byte_us == 0
        and buffer_size(&transaction.response_head) == 0
    ):
        count(worker.counters, COUNT_IDLE_STREAMS_LOST, 1)
        idle_limit_closed(&http.pool.idle, http.idled_us, worker.now_us)


cdef void pool_idle_told(HttpStream *http, int32_t seconds) noexcept nogil:
    idle_limit_told(&http.pool.idle, seconds)


cdef void pool_flush(Link *link, uint32_t route) noexcept nogil:
    cdef StreamPool *pool = <StreamPool *>link.pools
    while pool != NULL and pool.route != route:
        pool = pool.next
    if pool == NULL:
        return
    pool.flushes += 1
    while pool.oldest != NULL:
        http_stream_release(pool.oldest, YAMUX_RESET_CANCEL)


cdef void pools_drain(Link *link, bint closes) noexcept nogil:
    # A device that ends waits for its connections to targets, and knows not which are idle.
    cdef StreamPool *pool = <StreamPool *>link.pools
    link.is_draining = True
    link.closes_when_idle = link.closes_when_idle or closes
    while pool != NULL:
        while pool.oldest != NULL:
            http_stream_release(pool.oldest, YAMUX_RESET_CANCEL)
        pool = pool.next
    close_soon_if_idle(link)


cdef void pools_close(Link *link) noexcept nogil:
    cdef StreamPool *pool
    cdef Visitor *visitor
    while link.opening_first != NULL:
        visitor = <Visitor *>link.opening_first
        pool_stop_waiting(visitor)
        conn_requeue(&visitor.conn)        # to another link, or to be told
    while link.pools != NULL:
        pool = <StreamPool *>link.pools
        CHECK(pool.count == 0)
        link.pools = pool.next
        free(pool)


# --- waiting ----------------------------------------------------------------------------

cdef void pool_wait(Link *link, Visitor *visitor) noexcept nogil:
    visitor.opening_link = link
    visitor.opening_next = NULL
    visitor.opening_previous = <Visitor *>link.opening_last
    if visitor.opening_previous != NULL:
        visitor.opening_previous.opening_next = visitor
    else:
        link.opening_first = visitor
    link.opening_last = visitor
    link.opening_count += 1


cdef void pool_stop_waiting(Visitor *visitor) noexcept nogil:
    cdef Link *link = visitor.opening_link
    if link == NULL:
        return
    if visitor.opening_previous != NULL:
        visitor.opening_previous.opening_next = visitor.opening_next
    else:
        link.opening_first = visitor.opening_next
    if visitor.opening_next != NULL:
        visitor.opening_next.opening_previous = visitor.opening_previous
    else:
        link.opening_last = visitor.opening_previous
    link.opening_count -= 1
    visitor.opening_link = NULL
    if visitor.opening_previous == NULL:
        pool_wake(link)


cdef void pool_wake(Link *link) noexcept nogil:
    if link.opening_first != NULL:
        conn_requeue(&(<Visitor *>link.opening_first).conn)
