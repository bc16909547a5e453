# See routing.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.forward.route cimport (
    ROUTE_KEY_SIZE_MAX, Route, route_links, route_table_find,
)
from proxy_engine_core.forward.transaction cimport ServerRole
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.worker cimport (
    CONN_LINK, Conn, Worker, conn_handle, handle_worker, worker_conn, worker_random,
)
from proxy_engine_core.link.link cimport Link


cdef Route *find_route(ServerRole *role, const Head *head) noexcept nogil:
    cdef uint8_t key[ROUTE_KEY_SIZE_MAX]
    cdef const uint8_t *source
    cdef uint32_t size, index
    cdef uint8_t byte
    cdef Route *route
    if head.tunnel.size:
        source = head.bytes + head.tunnel.start
        size = head.tunnel.size
    else:
        source = head.bytes + head.host.start
        size = head.host.size
    if size + 5 <= ROUTE_KEY_SIZE_MAX:
        if head.tunnel.size:
            memcpy(key, b"name:", 5)
        else:
            memcpy(key, b"host:", 5)
        for index in range(size):
            byte = source[index]
            key[5 + index] = byte + 32 if c'A' <= byte <= c'Z' else byte
        route = route_table_find(&role.routes, key, size + 5)
        # A tunnel asked for by name is never quietly swapped for another.
        if route != NULL or head.tunnel.size:
            return route
        # "host:*.example.com", in the place where "host:www.example.com" is.
        for index in range(1, size):
            if key[5 + index] == c'.':
                key[4 + index] = c'*'
                memcpy(key + index - 1, b"host:", 5)
                route = route_table_find(&role.routes, key + index - 1, size - index + 6)
                if route != NULL:
                    return route
                break
    return route_table_find(&role.routes, b"default", 7)


cdef Link *live_link(Worker *worker, const Route *route, uint64_t last_choice) noexcept nogil:
    cdef const uint64_t *links = route_links(route)
    cdef uint32_t start = any_of(worker, route.link_count)
    cdef uint32_t index
    cdef Conn *conn
    cdef Link *found = NULL
    for index in range(route.link_count):
        conn = worker_conn(worker, links[(start + index) % route.link_count])
        if (
            conn != NULL and conn.kind == CONN_LINK and not (<Link *>conn).is_closing
            and not (<Link *>conn).is_draining
            and not (<Link *>conn).session.go_away_received
        ):
            found = <Link *>conn
            if conn_handle(conn) != last_choice:
                break
    return found


cdef uint32_t any_of(Worker *worker, uint32_t how_many) noexcept nogil:
    return <uint32_t>(worker_random(worker) % how_many) if how_many > 1 else 0


cdef int other_worker(Worker *worker, const Route *route) noexcept nogil:
    cdef const uint64_t *links = route_links(route)
    cdef uint32_t start = any_of(worker, route.link_count)
    cdef uint32_t index, other
    for index in range(route.link_count):
        other = handle_worker(links[(start + index) % route.link_count])
        if other != worker.index and other < worker.crew.worker_count:
            return <int>other
    return -1
