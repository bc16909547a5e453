# How long an idle stream of a tunnel may be reused: learnt from its target. Pure.
#
# A target closes connections that idle longer than its own limit T, and a request that
# crosses such a close on the wire is lost. Nobody tells T reliably, so it is approached
# from three sides:
#
#   closed     the target closed a stream that had idled t: T <= t, so the limit falls
#              towards 4/5 t, at most by half in one step
#   survived   a stream idled 5/4 of the limit and was still there: the limit grows by an
#              eighth, less than what was just seen to be safe, and never beyond the cap
#   told       Keep-Alive: timeout=N: limit and cap are 4/5 N, within the cap of the options
#
# One step a second, so that a restarted target, which closes all its streams in one go, or a
# thousand survivors of one burst count once.

from libc.stdint cimport int32_t, uint64_t


cdef enum:
    IDLE_LIMIT_MIN_US = 100_000           # what idled less was not closed for idling
    IDLE_STEP_US = 1_000_000              # between two steps

cdef struct IdleLimit:
    uint64_t limit_us                     # reuse a stream that idled less; 0: never
    uint64_t cap_us
    uint64_t option_cap_us
    uint64_t stepped_us                   # when the limit last moved
    int32_t told_s                        # the last N; -1: none

cdef void idle_limit_init(
    IdleLimit *idle, uint64_t start_ms, uint64_t cap_ms
) noexcept nogil
cdef void idle_limit_closed(IdleLimit *idle, uint64_t idled_us, uint64_t now_us) noexcept nogil
cdef void idle_limit_survived(IdleLimit *idle, uint64_t idled_us, uint64_t now_us) noexcept nogil
cdef void idle_limit_told(IdleLimit *idle, int32_t seconds) noexcept nogil

cdef inline uint64_t idle_keep_us(const IdleLimit *idle) noexcept nogil:
    # How long an idle stream is kept: beyond the limit only to see whether it survives.
    if idle.limit_us >= idle.cap_us:
        return idle.limit_us
    return idle.limit_us + idle.limit_us // 4
