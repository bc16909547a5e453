# The route table of a worker: key -> tunnel -> live links. Pure. One copy per worker,
# changed only by messages from the control plane, so looking up takes no lock.
#
# Keys: "host:web.example.com", "name:web", "default" (core.pyi, routes_apply).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    ROUTE_BUCKETS_MIN = 64            # a power of two
    ROUTE_LINKS_MAX = 8               # replicas of a tunnel one route can name
    ROUTE_KEY_SIZE_MAX = 261          # "host:" and a 255-byte host; longer matches nothing
    TUNNEL_NAME_SIZE_MAX = 63         # a DNS label

cdef struct Route:
    Route *next                       # hash chain
    uint64_t links[ROUTE_LINKS_MAX]   # handles
    uint32_t link_count
    uint32_t id
    uint32_t hash
    uint16_t key_size
    uint8_t name_size
    uint8_t name[TUNNEL_NAME_SIZE_MAX]
    uint8_t key[ROUTE_KEY_SIZE_MAX]

cdef struct RouteTable:
    Route **buckets                   # `first`, until they are too many
    Route *first[ROUTE_BUCKETS_MIN]
    uint32_t bucket_count
    uint32_t count

cdef void route_table_init(RouteTable *table) noexcept nogil
cdef void route_table_free(RouteTable *table) noexcept nogil       # idempotent
# Insert or replace; the table takes `route` (malloc'ed) over. Can not fail, since nobody could
# be told: a table that can not grow only gets slower.
cdef void route_table_set(RouteTable *table, Route *route) noexcept nogil
cdef void route_table_delete(RouteTable *table, const uint8_t *key, uint32_t size) noexcept nogil
cdef Route *route_table_find(
    const RouteTable *table, const uint8_t *key, uint32_t size
) noexcept nogil
