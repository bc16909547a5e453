# The route table of a worker: key -> tunnel -> live links. Pure. One copy per worker,
# changed only by messages from the control plane, so looking up takes no lock.
#
# Keys: "host:web.example.com", "host:*.example.com", "name:web", "default": core.pyi,
# routes_apply.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.route_stats cimport RouteStats, RouteStatsBlock
from proxy_engine_core.io.profile cimport PROFILE_BALANCED, Profile, profile_get


cdef enum:
    ROUTE_BUCKETS_MIN = 64            # a power of two
    ROUTE_LINKS_MAX = 128             # links one route can name: replicas times links of each
    ROUTE_KEY_SIZE_MAX = 261          # "host:" and a 255-byte host; longer matches nothing
    TUNNEL_NAME_SIZE_MAX = 63         # a DNS label

cdef struct Route:                    # one block; its links, name and key stand behind it
    Route *next                       # hash chain
    Policy *policy                    # the tunnel's options; NULL: none
    RouteStatsBlock *counts           # held
    RouteStats *stats                 # of these, the worker's; NULL before the first visitor
    uint32_t link_count
    uint32_t id
    uint32_t hash
    uint16_t key_size
    uint8_t name_size
    uint8_t is_marked                 # recheck.pxd

cdef struct RouteTable:
    Route **buckets                   # `first`, until they are too many
    Route *first[ROUTE_BUCKETS_MIN]
    uint32_t bucket_count
    uint32_t count

# NULL: no memory. Sizes are within the limits above. It has no policy and no counts yet.
cdef Route *route_new(
    uint32_t id, const uint64_t *links, uint32_t link_count, const uint8_t *name,
    uint32_t name_size, const uint8_t *key, uint32_t key_size
) noexcept nogil

cdef void route_free(Route *route) noexcept nogil                  # NULL is none

cdef inline uint64_t *route_links(const Route *route) noexcept nogil:
    return <uint64_t *>(route + 1)

cdef inline uint8_t *route_name(const Route *route) noexcept nogil:
    return <uint8_t *>(route_links(route) + route.link_count)

cdef inline uint8_t *route_key(const Route *route) noexcept nogil:
    return route_name(route) + route.name_size

cdef inline const Profile *route_profile(const Route *route) noexcept nogil:
    return profile_get(PROFILE_BALANCED if route.policy == NULL else <uint8_t>route.policy.profile)

cdef void route_table_init(RouteTable *table) noexcept nogil
cdef void route_table_free(RouteTable *table) noexcept nogil       # idempotent
# Insert or replace; the table takes `route` over. Can not fail, since nobody could be told: a
# table that can not grow only gets slower.
cdef void route_table_set(RouteTable *table, Route *route) noexcept nogil
cdef void route_table_delete(RouteTable *table, const uint8_t *key, uint32_t size) noexcept nogil
cdef Route *route_table_find(
    const RouteTable *table, const uint8_t *key, uint32_t size
) noexcept nogil
