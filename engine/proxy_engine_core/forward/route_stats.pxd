# What the visitors of a tunnel did: counted by every worker for itself, read by anybody at any
# time. Pure.
#
#   RouteStatsBlock   one route id; a worker's copy of a route is a holder of it
#   RouteStats        what one worker counts of it, cache lines of its own. A worker makes it for
#                     its first visitor of the route: most tunnels of a large server are idle
#   Route.stats       this worker's, from then on
#   Transaction.stats where its request is counted, from when it is routed to its end
#
# A request that is `begun` has not `ended` until the last of its writes is made, so a block that no
# route holds and in which as many have ended as begun is nobody's any more. What is under way
# costs no reference.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from proxy_engine_core.atomic cimport (
    atomic_add, atomic_subtract, counter_add, counter_add_release,
)
from proxy_engine_core.durations cimport Durations


cdef enum:
    STATUS_CLASSES = 10                   # of a status with three digits

cdef struct RouteStats:                   # one writer; what every request touches stands first
    uint64_t begun
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t[STATUS_CLASSES] ended        # by the class of what the visitor saw; 0: nothing
    Durations durations                   # of requests; a connection to a tunnel is none
    uint64_t refused                      # answered by the proxy itself, below 500
    uint64_t failed                       # ... 500 and above
    uint64_t aborted
    uint64_t connections                  # TCP, UDP visitors, after 101

cdef struct RouteStatsBlock:              # then a RouteStats * for each worker: NULL or published
    RouteStatsBlock *next                 # route_stats_table.pxd
    uint64_t holders                      # routes in workers' tables, and on their way there
    uint32_t route
    uint32_t worker_count

cdef RouteStatsBlock *route_stats_new(
    uint32_t route, uint32_t worker_count
) noexcept nogil                          # NULL: no memory
cdef void route_stats_free(RouteStatsBlock *block) noexcept nogil
# Those of a worker, in its thread. NULL: no memory for the first time.
cdef RouteStats *route_stats_of(RouteStatsBlock *block, uint32_t worker) noexcept nogil
# Nobody writes to it any more, or ever will.
cdef bint route_stats_is_over(RouteStatsBlock *block) noexcept nogil
# Add those of all workers to `total`; what is under way is begun and has not ended.
cdef void route_stats_sum(RouteStatsBlock *block, RouteStats *total) noexcept nogil
cdef void route_stats_add(RouteStats *total, const RouteStats *stats) noexcept nogil

cdef inline void route_stats_hold(RouteStatsBlock *block) noexcept nogil:
    atomic_add(&block.holders, 1)

cdef inline void route_stats_drop(RouteStatsBlock *block) noexcept nogil:
    if block != NULL:
        atomic_subtract(&block.holders, 1)

cdef inline void route_stats_begin(RouteStats *stats) noexcept nogil:
    counter_add(&stats.begun, 1)

# It goes on elsewhere, or never was anything.
cdef inline void route_stats_leave(RouteStats *stats) noexcept nogil:
    counter_add_release(&stats.begun, <uint64_t>0 - 1)

cdef inline void route_stats_bytes(
    RouteStats *stats, uint64_t bytes_in, uint64_t bytes_out
) noexcept nogil:
    counter_add(&stats.bytes_in, bytes_in)
    counter_add(&stats.bytes_out, bytes_out)

cdef inline void route_stats_end(RouteStats *stats, uint16_t status) noexcept nogil:
    # status / 100 of what has at most three digits.
    counter_add_release(&stats.ended[<uint32_t>status * 41 >> 12], 1)
