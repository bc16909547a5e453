# The counts of every route (forward/route_stats.pxd), by its id: a hash table chained through the
# blocks. Holds the GIL.

from libc.stdint cimport uint32_t

from proxy_engine_core.forward.route_stats cimport RouteStats, RouteStatsBlock


cdef class RouteStatsTable:
    cdef RouteStatsBlock **buckets    # a power of two
    cdef uint32_t bucket_count
    cdef uint32_t worker_count
    cdef Py_ssize_t count             # of blocks; those of routes that went are kept
    cdef Py_ssize_t trim_at           # ... until there are so many

    # The block of a route, new or not. Raises MemoryError.
    cdef RouteStatsBlock *get(self, uint32_t route) except NULL
    cdef int grow(self) except -1
    cdef void trim(self)
    # A record (core.pyi, ROUTE_STATS) for `unrouted`, with the id 0, and for each block.
    cdef bytes pack(self, const RouteStats *unrouted)
