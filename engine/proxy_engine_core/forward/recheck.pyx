# See recheck.pxd.

from libc.stdint cimport uint32_t
from libc.stdlib cimport bsearch, free, malloc, qsort

from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_TUNNELS_TURNED_AWAY, count,
)
from proxy_engine_core.forward.gate cimport gate_turns_away
from proxy_engine_core.forward.policy cimport POLICY_DISABLED, policy_equal
from proxy_engine_core.forward.route cimport Route, RouteTable
from proxy_engine_core.forward.transaction cimport (
    VISITOR_DIRECT, VISITOR_TUNNEL, ServerRole, Visitor, transaction_fail,
)
from proxy_engine_core.forward.udp cimport udp_recheck
from proxy_engine_core.forward.udp_table cimport UdpListener
from proxy_engine_core.io.worker cimport CONN_UDP_LISTENER, CONN_VISITOR, Worker


cdef void recheck_mark(ServerRole *role, Route *route, const Route *before) noexcept nogil:
    if route.policy == NULL:
        return
    if not (route.policy.flags & POLICY_DISABLED or route.policy.networks.size):
        return
    if before != NULL and policy_equal(before.policy, route.policy) and not before.is_marked:
        return
    route.is_marked = True
    role.marked_routes += 1


cdef int compare_ids(const void *one, const void *other) noexcept nogil:
    cdef uint32_t left = (<const Route *const *>one)[0].id
    cdef uint32_t right = (<const Route *const *>other)[0].id
    return (left > right) - (left < right)


cdef uint32_t take_marked(RouteTable *table, Route **found) noexcept nogil:
    cdef uint32_t index, taken = 0
    cdef Route *route
    for index in range(table.bucket_count):
        route = table.buckets[index]
        while route != NULL:
            if route.is_marked:
                route.is_marked = False
                found[taken] = route
                taken += 1
            route = route.next
    return taken


cdef void recheck_tunnels(ServerRole *role) noexcept nogil:
    cdef Worker *worker = role.worker
    cdef Route **marked = <Route **>malloc(role.marked_routes * sizeof(Route *))
    cdef Route wanted
    cdef Route *key = &wanted
    cdef Route **route
    cdef Visitor *visitor
    cdef uint32_t slot, route_count
    cdef const char *reason
    if marked == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return                            # the next turn tries again
    # As many at most: each is counted when it is marked, and stays so until it is here.
    route_count = take_marked(&role.routes, marked)
    role.marked_routes = 0
    qsort(marked, route_count, sizeof(Route *), compare_ids)
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_UDP_LISTENER:
            wanted.id = (<UdpListener *>worker.conns[slot]).route
            route = <Route **>bsearch(&key, marked, route_count, sizeof(Route *), compare_ids)
            if route != NULL:
                udp_recheck(<UdpListener *>worker.conns[slot], route[0].policy)
            continue
        if worker.conns[slot] == NULL or worker.conns[slot].kind != CONN_VISITOR:
            continue
        visitor = <Visitor *>worker.conns[slot]
        if visitor.state != VISITOR_TUNNEL and visitor.state != VISITOR_DIRECT:
            continue
        wanted.id = visitor.transaction.route
        route = <Route **>bsearch(&key, marked, route_count, sizeof(Route *), compare_ids)
        if route == NULL:
            continue
        reason = gate_turns_away(visitor, route[0].policy)
        if reason != NULL:
            count(worker.counters, COUNT_TUNNELS_TURNED_AWAY, 1)
            transaction_fail(visitor, 0, reason, b"")
    free(marked)
