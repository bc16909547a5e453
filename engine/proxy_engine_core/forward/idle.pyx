# See idle.pxd.

from libc.stdint cimport int32_t, uint64_t


cdef void idle_limit_init(
    IdleLimit *idle, uint64_t start_ms, uint64_t cap_ms
) noexcept nogil:
    idle.limit_us = start_ms * 1000
    idle.cap_us = idle.limit_us
    if start_ms != 0 and cap_ms > start_ms:
        idle.cap_us = cap_ms * 1000
    idle.option_cap_us = idle.cap_us
    idle.stepped_us = 0
    idle.told_s = -1


cdef bint may_step(IdleLimit *idle, uint64_t now_us) noexcept nogil:
    if idle.stepped_us != 0 and now_us - idle.stepped_us < IDLE_STEP_US:
        return False
    idle.stepped_us = now_us
    return True


cdef void idle_limit_closed(IdleLimit *idle, uint64_t idled_us, uint64_t now_us) noexcept nogil:
    cdef uint64_t limit_us = idled_us - idled_us // 5
    if (
        idled_us < IDLE_LIMIT_MIN_US or limit_us >= idle.limit_us or not may_step(idle, now_us)
    ):
        return
    if limit_us < idle.limit_us // 2:
        limit_us = idle.limit_us // 2
    idle.limit_us = limit_us


cdef void idle_limit_survived(IdleLimit *idle, uint64_t idled_us, uint64_t now_us) noexcept nogil:
    cdef uint64_t limit_us = idle.limit_us + idle.limit_us // 8
    if idle.limit_us >= idle.cap_us or idled_us < limit_us or not may_step(idle, now_us):
        return
    idle.limit_us = limit_us if limit_us < idle.cap_us else idle.cap_us


cdef void idle_limit_told(IdleLimit *idle, int32_t seconds) noexcept nogil:
    # Said with every response, heard once: what was seen since stands.
    cdef uint64_t told_us = <uint64_t>seconds * 800_000
    if seconds == idle.told_s:
        return
    idle.told_s = seconds
    idle.cap_us = told_us if told_us < idle.option_cap_us else idle.option_cap_us
    idle.limit_us = idle.cap_us
