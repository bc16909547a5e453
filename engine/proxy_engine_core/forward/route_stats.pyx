# See route_stats.pxd.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from proxy_engine_core.atomic cimport (
    atomic_load_acquire, atomic_load_pointer, atomic_load_relaxed, atomic_store_pointer,
)
from proxy_engine_core.durations cimport DURATION_BUCKETS

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef enum:
    LINE_SIZE = 64                        # of a cache; two workers write to no common one


cdef inline void **place_of(RouteStatsBlock *block, uint32_t worker) noexcept nogil:
    return <void **>(block + 1) + worker


cdef inline RouteStats *found(RouteStatsBlock *block, uint32_t worker) noexcept nogil:
    return <RouteStats *>atomic_load_pointer(place_of(block, worker))


cdef RouteStats *route_stats_of(RouteStatsBlock *block, uint32_t worker) noexcept nogil:
    cdef size_t size = (sizeof(RouteStats) + LINE_SIZE - 1) // LINE_SIZE * LINE_SIZE
    cdef RouteStats *stats = found(block, worker)
    if stats == NULL:
        stats = <RouteStats *>aligned_alloc(LINE_SIZE, size)
        if stats != NULL:
            memset(stats, 0, size)
            atomic_store_pointer(place_of(block, worker), stats)
    return stats


cdef RouteStatsBlock *route_stats_new(uint32_t route, uint32_t worker_count) noexcept nogil:
    cdef RouteStatsBlock *block = <RouteStatsBlock *>calloc(
        1, sizeof(RouteStatsBlock) + worker_count * sizeof(void *)
    )
    if block != NULL:
        block.route = route
        block.worker_count = worker_count
    return block


cdef void route_stats_free(RouteStatsBlock *block) noexcept nogil:
    cdef uint32_t worker
    for worker in range(block.worker_count):
        free(found(block, worker))
    free(block)


cdef bint route_stats_is_over(RouteStatsBlock *block) noexcept nogil:
    cdef RouteStats *stats
    cdef uint64_t ended
    cdef uint32_t worker
    cdef int index
    if atomic_load_acquire(&block.holders):
        return False
    for worker in range(block.worker_count):
        stats = found(block, worker)
        if stats == NULL:
            continue
        ended = 0
        for index in range(STATUS_CLASSES):
            ended += atomic_load_acquire(&stats.ended[index])
        if ended != atomic_load_acquire(&stats.begun):
            return False
    return True


cdef void route_stats_sum(RouteStatsBlock *block, RouteStats *total) noexcept nogil:
    cdef RouteStats *stats
    cdef uint32_t worker
    for worker in range(block.worker_count):
        stats = found(block, worker)
        if stats != NULL:
            route_stats_add(total, stats)


cdef void route_stats_add(RouteStats *total, const RouteStats *stats) noexcept nogil:
    cdef int index
    # What has ended is read before what has begun: never more of it.
    for index in range(STATUS_CLASSES):
        total.ended[index] += atomic_load_acquire(&stats.ended[index])
    total.begun += atomic_load_relaxed(&stats.begun)
    total.bytes_in += atomic_load_relaxed(&stats.bytes_in)
    total.bytes_out += atomic_load_relaxed(&stats.bytes_out)
    total.durations.us += atomic_load_relaxed(&stats.durations.us)
    for index in range(DURATION_BUCKETS):
        total.durations.counts[index] += atomic_load_relaxed(&stats.durations.counts[index])
    total.refused += atomic_load_relaxed(&stats.refused)
    total.failed += atomic_load_relaxed(&stats.failed)
    total.aborted += atomic_load_relaxed(&stats.aborted)
    total.connections += atomic_load_relaxed(&stats.connections)
