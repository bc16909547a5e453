# What a worker has for Python: control events, which are never lost, and the log. A turn wakes
# Python at most once.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.io.worker cimport Worker


cdef enum:
    LOG_WAKE_BYTES = 256 * 1024       # wake Python for logs at this much ...
    LOG_WAKE_US = 50_000              # ... or this long after the first ...
    LOG_WAKE_BUSY_US = 200_000        # ... or this long, if the last ones were many: nobody reads
    LOG_BUSY_BYTES = 16 * 1024        # along that fast, and storing them is a transaction each time

# A control event for Python; never lost.
cdef void news_event(
    Worker *worker, uint32_t kind, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    const void *first, uint32_t first_size, const void *second, uint32_t second_size
) noexcept nogil
cdef void news_log_written(Worker *worker, uint32_t size) noexcept nogil
cdef void news_tell(Worker *worker) noexcept nogil         # at the end of a turn
cdef void news_free(Worker *worker) noexcept nogil
