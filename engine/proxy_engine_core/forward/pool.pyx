# See pool.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_STREAMS_OPENED, COUNT_STREAMS_REUSED, count,
)
from proxy_engine_core.forward.route cimport TUNNEL_NAME_SIZE_MAX, Route
from proxy_engine_core.forward.transaction cimport HttpStream, StreamPool, Visitor
from proxy_engine_core.io.conn cimport conn_deadline, conn_requeue
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link cimport OWNER_HTTP, Link, link_of, link_touch
from proxy_engine_core.proxy_protocol cimport preamble_encode
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_CANCEL, YAMUX_UNACKED_MAX, YamuxStream, yamux_stream_open, yamux_stream_release,
    yamux_stream_send,
)


cdef StreamPool *pool_of(Link *link, uint32_t route) noexcept nogil:
    # A device has a handful of tunnels: a list is enough.
    cdef StreamPool *pool = <StreamPool *>link.pools
    while pool != NULL and pool.route != route:
        pool = pool.next
    if pool == NULL:
        pool = <StreamPool *>calloc(1, sizeof(StreamPool))
        if pool != NULL:
            pool.route = route
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


cdef bint make_room(Link *link) noexcept nogil:
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
        return False
    unlink(oldest)
    yamux_stream_release(oldest.stream, YAMUX_RESET_CANCEL)
    free(oldest)
    return True


cdef HttpStream *pool_take(
    Link *link, const Route *route, uint32_t head_size, uint64_t idle_us_max
) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = pool_of(link, route.id)
    cdef HttpStream *http
    cdef YamuxStream *stream
    cdef uint8_t preamble[19 + TUNNEL_NAME_SIZE_MAX]
    if pool == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    http = pool.newest
    if (
        http != NULL and worker.now_us - http.idle_since_us < idle_us_max
        and http.stream.send_window >= head_size
    ):
        unlink(http)
        http.is_reused = True
        count(worker.counters, COUNT_STREAMS_REUSED, 1)
        return http
    if link.session.unacked_count >= YAMUX_UNACKED_MAX:
        return NULL
    if link.session.stream_count >= link.streams_max and not make_room(link):
        return NULL
    http = <HttpStream *>calloc(1, sizeof(HttpStream))
    if http == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    stream = yamux_stream_open(&link.session, link.session.window_start)
    if stream == NULL:
        free(http)
        return NULL
    http.stream = stream
    http.pool = pool
    stream.owner = http
    stream.owner_kind = OWNER_HTTP
    link_touch(link)
    if link.has_preamble and yamux_stream_send(
        stream, preamble, preamble_encode(preamble, route.name, route.name_size)
    ) < 0:
        http_stream_release(http, YAMUX_RESET_CANCEL)
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    count(worker.counters, COUNT_STREAMS_OPENED, 1)
    return http


cdef void pool_put(HttpStream *http) noexcept nogil:
    cdef Link *link = link_of(http.stream)
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = http.pool
    http.visitor = NULL
    if link.is_draining or pool.count >= worker.options.pool_streams_max:
        http_stream_release(http, YAMUX_RESET_CANCEL)
        return
    http.idle_since_us = worker.now_us
    http.older = pool.newest
    if pool.newest != NULL:
        pool.newest.newer = http
    else:
        pool.oldest = http
    pool.newest = http
    pool.count += 1
    if link.conn.timer.deadline_ms > worker.now_ms + worker.options.pool_idle_ms:
        conn_deadline(&link.conn, worker.options.pool_idle_ms + 1)
    pool_wake(link)


cdef void http_stream_release(HttpStream *http, uint32_t code) noexcept nogil:
    cdef Link *link = link_of(http.stream)
    cdef StreamPool *pool = http.pool
    if http.newer != NULL or http.older != NULL or pool.newest == http:
        unlink(http)
    yamux_stream_release(http.stream, code)
    free(http)
    link_touch(link)
    pool_wake(link)


cdef void pool_trim(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef StreamPool *pool = <StreamPool *>link.pools
    cdef uint64_t idle_us = worker.options.pool_idle_ms * 1000
    cdef bint any_left = False
    while pool != NULL:
        while pool.oldest != NULL and worker.now_us - pool.oldest.idle_since_us >= idle_us:
            http_stream_release(pool.oldest, YAMUX_RESET_CANCEL)
        any_left = any_left or pool.oldest != NULL
        pool = pool.next
    pool_wake(link)
    if any_left and link.conn.timer.deadline_ms > worker.now_ms + worker.options.pool_idle_ms:
        conn_deadline(&link.conn, worker.options.pool_idle_ms + 1)


cdef void pools_drain(Link *link) noexcept nogil:
    # The device ends: it waits for its connections to targets, and knows not which are idle.
    cdef StreamPool *pool = <StreamPool *>link.pools
    link.is_draining = True
    while pool != NULL:
        while pool.oldest != NULL:
            http_stream_release(pool.oldest, YAMUX_RESET_CANCEL)
        pool = pool.next


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
