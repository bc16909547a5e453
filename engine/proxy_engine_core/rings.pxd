# Reading the workers' rings (io/worker.pxd: control and log), in Python's thread. The rings
# take turns, so that none is always behind a busy one: `next_ring` says whose it is.

from libc.stdint cimport uint32_t

from proxy_engine_core.io.worker cimport Crew


# At most `limit` records, as records.pxd gives them.
cdef list rings_events(Crew *crew, uint32_t *next_ring, int limit)
cdef list rings_logs(Crew *crew, uint32_t *next_ring, int limit)
# Whole log records as they lie there, of about `limit` bytes.
cdef bytes rings_log_batch(Crew *crew, uint32_t *next_ring, Py_ssize_t limit)
cdef bint rings_have_logs(Crew *crew) noexcept
