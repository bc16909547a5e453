# Buckets for histograms of durations.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.atomic cimport counter_add


cdef extern from "durations.h" nogil:
    enum:
        DURATION_BUCKETS
    const uint64_t[DURATION_BUCKETS] duration_bounds_us
    uint32_t duration_bucket(uint64_t us)

cdef struct Durations:                    # one writer, read by anybody
    uint64_t us                           # all of them together
    uint64_t[DURATION_BUCKETS] counts

cdef inline void durations_add(Durations *durations, uint64_t us) noexcept nogil:
    counter_add(&durations.us, us)
    counter_add(&durations.counts[duration_bucket(us)], 1)
