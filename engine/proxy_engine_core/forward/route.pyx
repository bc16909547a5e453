# See route.pxd.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.forward.policy cimport policy_release
from proxy_engine_core.forward.route_stats cimport route_stats_drop


cdef uint32_t hash_of(const uint8_t *key, uint32_t size) noexcept nogil:
    # Eight bytes a step, the last ones perhaps twice. Keys are chosen by the control plane, not
    # by visitors, who can only miss.
    cdef uint64_t value = size
    cdef uint64_t word = 0
    cdef uint32_t at = 0
    if size < 8:
        memcpy(&word, key, size)
        return <uint32_t>mix(value, word)
    while at + 8 < size:
        memcpy(&word, key + at, 8)
        value = mix(value, word)
        at += 8
    memcpy(&word, key + size - 8, 8)
    return <uint32_t>mix(value, word)


cdef inline uint64_t mix(uint64_t value, uint64_t word) noexcept nogil:
    value = (value ^ word) * <uint64_t>0x9E3779B97F4A7C15
    return value ^ (value >> 32)


cdef Route *route_new(
    uint32_t id, const uint64_t *links, uint32_t link_count, const uint8_t *name,
    uint32_t name_size, const uint8_t *key, uint32_t key_size
) noexcept nogil:
    cdef Route *route = <Route *>malloc(
        sizeof(Route) + link_count * sizeof(uint64_t) + name_size + key_size
    )
    if route == NULL:
        return NULL
    CHECK(link_count <= ROUTE_LINKS_MAX)
    CHECK(name_size <= TUNNEL_NAME_SIZE_MAX and key_size <= ROUTE_KEY_SIZE_MAX)
    route.next = NULL
    route.policy = NULL
    route.counts = NULL
    route.stats = NULL
    route.is_marked = False
    route.id = id
    route.hash = hash_of(key, key_size)
    route.link_count = link_count
    route.name_size = <uint8_t>name_size
    route.key_size = <uint16_t>key_size
    if link_count:
        memcpy(route_links(route), links, link_count * sizeof(uint64_t))
    memcpy(route_name(route), name, name_size)
    memcpy(route_key(route), key, key_size)
    return route


cdef void route_free(Route *route) noexcept nogil:
    if route != NULL:
        policy_release(route.policy)
        route_stats_drop(route.counts)
        free(route)


cdef void route_table_init(RouteTable *table) noexcept nogil:
    memset(table, 0, sizeof(RouteTable))
    table.buckets = table.first
    table.bucket_count = ROUTE_BUCKETS_MIN


cdef void route_table_free(RouteTable *table) noexcept nogil:
    cdef uint32_t index
    cdef Route *route
    for index in range(table.bucket_count):
        while table.buckets[index] != NULL:
            route = table.buckets[index]
            table.buckets[index] = route.next
            route_free(route)
    if table.buckets != table.first:
        free(table.buckets)
    route_table_init(table)


cdef void grow(RouteTable *table) noexcept nogil:
    cdef uint32_t bucket_count = table.bucket_count * 2
    cdef Route **buckets = <Route **>calloc(bucket_count, sizeof(Route *))
    cdef Route *route
    cdef uint32_t index
    if buckets == NULL:
        return
    for index in range(table.bucket_count):
        while table.buckets[index] != NULL:
            route = table.buckets[index]
            table.buckets[index] = route.next
            route.next = buckets[route.hash & (bucket_count - 1)]
            buckets[route.hash & (bucket_count - 1)] = route
    if table.buckets != table.first:
        free(table.buckets)
    table.buckets = buckets
    table.bucket_count = bucket_count


cdef void route_table_set(RouteTable *table, Route *route) noexcept nogil:
    cdef uint32_t bucket
    route_table_delete(table, route_key(route), route.key_size)
    if table.count >= table.bucket_count:
        grow(table)
    bucket = route.hash & (table.bucket_count - 1)
    route.next = table.buckets[bucket]
    table.buckets[bucket] = route
    table.count += 1


cdef void route_table_delete(RouteTable *table, const uint8_t *key, uint32_t size) noexcept nogil:
    cdef Route *route = route_table_find(table, key, size)
    cdef Route **link
    if route == NULL:
        return
    link = &table.buckets[route.hash & (table.bucket_count - 1)]
    while link[0] != route:
        link = &link[0].next
    link[0] = route.next
    table.count -= 1
    route_free(route)


cdef Route *route_table_find(
    const RouteTable *table, const uint8_t *key, uint32_t size
) noexcept nogil:
    cdef uint32_t value
    cdef Route *route
    value = hash_of(key, size)
    route = table.buckets[value & (table.bucket_count - 1)]
    while route != NULL:
        if (
            route.hash == value and route.key_size == size
            and memcmp(route_key(route), key, size) == 0
        ):
            return route
        route = route.next
    return NULL
