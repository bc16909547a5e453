# See route_stats_table.pxd.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from proxy_engine_core.durations cimport DURATION_BUCKETS, duration_bounds_us
from proxy_engine_core.forward.route_stats cimport (
    STATUS_CLASSES, route_stats_free, route_stats_is_over, route_stats_new, route_stats_sum,
)

cdef enum:
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


@cython.no_gc_clear                       # __dealloc__ reads the dict
cdef class RouteStatsTable:
    def __cinit__(self, uint32_t worker_count):
        self.worker_count = worker_count
        self.addresses = {}
        self.trim_at = TRIM_AT_MIN

    def __dealloc__(self):
        for address in self.addresses.values():
            route_stats_free(<RouteStatsBlock *><uintptr_t>address)

    cdef RouteStatsBlock *get(self, uint32_t route) except NULL:
        cdef RouteStatsBlock *block
        address = self.addresses.get(route)
        if address is not None:
            return <RouteStatsBlock *><uintptr_t>address
        if len(self.addresses) >= self.trim_at:
            self.trim()
        block = route_stats_new(route, self.worker_count)
        if block == NULL:
            raise MemoryError
        self.addresses[route] = <uintptr_t>block
        return block

    cdef int trim(self) except -1:
        cdef RouteStatsBlock *block
        for route, address in list(self.addresses.items()):
            block = <RouteStatsBlock *><uintptr_t>address
            if route_stats_is_over(block):
                del self.addresses[route]
                route_stats_free(block)
        self.trim_at = max(TRIM_AT_MIN, 2 * len(self.addresses))
        return 0

    cdef bytes pack(self, const RouteStats *unrouted):
        cdef Py_ssize_t size = (len(self.addresses) + 1) * FIELD_COUNT * sizeof(uint64_t)
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, size)
        cdef uint64_t *place = put(<uint64_t *>PyBytes_AS_STRING(packed), 0, unrouted)
        cdef RouteStatsBlock *block
        cdef RouteStats total
        for address in self.addresses.values():
            block = <RouteStatsBlock *><uintptr_t>address
            memset(&total, 0, sizeof(RouteStats))
            route_stats_sum(block, &total)
            place = put(place, block.route, &total)
        return packed
