# See route_stats_table.pxd.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from proxy_engine_core.durations cimport DURATION_BUCKETS, duration_bounds_us
from proxy_engine_core.forward.route_stats cimport (
    STATUS_CLASSES, route_stats_free, route_stats_is_over, route_stats_new, route_stats_sum,
)

cdef enum:
    BUCKETS_MIN = 64                      # a power of two
    TRIM_AT_MIN = 1024
    CLASSES_SHOWN = 6                     # from 600 on nothing is registered: as 5xx (RFC 9110, 15)
    FIELD_COUNT = 15 + DURATION_BUCKETS

ROUTE_STATS = (
    "route", "open", "connections", "bytes_in", "bytes_out", "refused", "failed", "aborted",
    "ended_none", "ended_1xx", "ended_2xx", "ended_3xx", "ended_4xx", "ended_5xx", "duration_us",
    *(f"duration_{index}" for index in range(DURATION_BUCKETS)),
)
ROUTE_STATS_BOUNDS_US = tuple(
    duration_bounds_us[index] for index in range(DURATION_BUCKETS - 1)
)


cdef uint64_t *put(uint64_t *place, uint32_t route, const RouteStats *stats) noexcept nogil:
    cdef uint64_t ended = 0
    cdef uint64_t *classes = place + 8
    cdef int index
    memset(classes, 0, CLASSES_SHOWN * sizeof(uint64_t))
    for index in range(STATUS_CLASSES):
        ended += stats.ended[index]
        classes[min(index, CLASSES_SHOWN - 1)] += stats.ended[index]
    place[0] = route
    # A request that has moved on since was begun and is not; the next look is right.
    place[1] = stats.begun - ended if stats.begun > ended else 0
    place[2] = stats.connections
    place[3] = stats.bytes_in
    place[4] = stats.bytes_out
    place[5] = stats.refused
    place[6] = stats.failed
    place[7] = stats.aborted
    place[14] = stats.durations.us
    for index in range(DURATION_BUCKETS):
        place[15 + index] = stats.durations.counts[index]
    return place + FIELD_COUNT


cdef class RouteStatsTable:
    def __cinit__(self, uint32_t worker_count):
        self.worker_count = worker_count
        self.bucket_count = BUCKETS_MIN
        self.trim_at = TRIM_AT_MIN
        self.buckets = <RouteStatsBlock **>calloc(BUCKETS_MIN, sizeof(RouteStatsBlock *))
        if self.buckets == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef RouteStatsBlock *block
        cdef uint32_t index
        if self.buckets == NULL:
            return
        for index in range(self.bucket_count):
            while self.buckets[index] != NULL:
                block = self.buckets[index]
                self.buckets[index] = block.next
                route_stats_free(block)
        free(self.buckets)

    cdef RouteStatsBlock *get(self, uint32_t route) except NULL:
        cdef RouteStatsBlock *block = self.buckets[route & (self.bucket_count - 1)]
        cdef RouteStatsBlock **bucket
        while block != NULL:
            if block.route == route:
                return block
            block = block.next
        if self.count >= self.trim_at:
            self.trim()
        if self.count >= self.bucket_count:
            self.grow()
        block = route_stats_new(route, self.worker_count)
        if block == NULL:
            raise MemoryError
        bucket = &self.buckets[route & (self.bucket_count - 1)]
        block.next = bucket[0]
        bucket[0] = block
        self.count += 1
        return block

    cdef int grow(self) except -1:
        cdef uint32_t index, size = self.bucket_count * 2
        cdef RouteStatsBlock *block
        cdef RouteStatsBlock **buckets = <RouteStatsBlock **>calloc(
            size, sizeof(RouteStatsBlock *)
        )
        if buckets == NULL:
            raise MemoryError
        for index in range(self.bucket_count):
            while self.buckets[index] != NULL:
                block = self.buckets[index]
                self.buckets[index] = block.next
                block.next = buckets[block.route & (size - 1)]
                buckets[block.route & (size - 1)] = block
        free(self.buckets)
        self.buckets = buckets
        self.bucket_count = size
        return 0

    cdef void trim(self):
        cdef RouteStatsBlock **place
        cdef RouteStatsBlock *block
        cdef uint32_t index
        for index in range(self.bucket_count):
            place = &self.buckets[index]
            while place[0] != NULL:
                block = place[0]
                if route_stats_is_over(block):
                    place[0] = block.next
                    route_stats_free(block)
                    self.count -= 1
                else:
                    place = &block.next
        self.trim_at = max(TRIM_AT_MIN, 2 * self.count)

    cdef bytes pack(self, const RouteStats *unrouted):
        cdef Py_ssize_t size = (self.count + 1) * FIELD_COUNT * sizeof(uint64_t)
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, size)
        cdef uint64_t *place = put(<uint64_t *>PyBytes_AS_STRING(packed), 0, unrouted)
        cdef RouteStatsBlock *block
        cdef RouteStats total
        cdef uint32_t index
        for index in range(self.bucket_count):
            block = self.buckets[index]
            while block != NULL:
                memset(&total, 0, sizeof(RouteStats))
                route_stats_sum(block, &total)
                place = put(place, block.route, &total)
                block = block.next
        return packed
