# Where workers are: stacks of their threads, as program counters, without their help. sampler.h
# says how it is done and why that is safe. One profile and one look at a time in a process.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.io.worker cimport Crew, Worker


cdef enum:
    SAMPLES_MAX = 1 << 16                 # of a profile: 35 MB, most of it never touched
    STACK_FRAMES_MAX = 64                 # as in sampler.h

cdef struct Profile:                       # one under way
    uint32_t timer_count
    uint64_t timers[64]                   # timer_t; WORKERS_MAX

# A thread that lets this signal through, and is known by this id, can be sampled.
cdef int sampler_signal_number() noexcept nogil
cdef int sampler_thread_id() noexcept nogil
# Sample each worker every `period_us` of its CPU time. 0; -EBUSY: there is a profile, or the
# signal is somebody else's; other -errno.
cdef int profile_begin(Profile *profile, Crew *crew, uint64_t period_us) noexcept nogil
# Its samples: {(worker, bytes of uint64 program counters, innermost first): periods}, and how many
# were lost for want of room.
cdef tuple profile_end(Profile *profile)
# The stack of a worker now: 0 and its frames; -ETIMEDOUT: it did not answer; other -errno.
cdef int stack_look(
    const Worker *worker, uint64_t *frames, uint32_t *depth, uint32_t patience_ms
) noexcept nogil
