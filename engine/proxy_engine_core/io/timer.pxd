# A coarse hashed timer wheel: 16 ms ticks, 4096 slots, 65 s around. Pure: the
# clock is passed in.
#
# One timer per connection. Moving a deadline later only writes `deadline_ms`; the
# timer is looked at again when its slot comes round (lazy re-arm), so activity on a
# connection costs one store. A deadline further away than the wheel waits a round.

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    TIMER_TICK_MS = 16
    TIMER_SLOTS = 4096
    TIMER_WORDS = 64              # TIMER_SLOTS / 64, the bitmap of used slots

cdef struct Timer:
    Timer *next
    Timer **link                  # what points at us; NULL: not armed
    uint64_t deadline_ms          # 0: cancelled
    uint32_t slot

cdef struct TimerWheel:
    Timer *slots[TIMER_SLOTS]
    uint64_t used[TIMER_WORDS]
    uint64_t tick                 # the next tick to look at

cdef void timer_wheel_init(TimerWheel *wheel, uint64_t now_ms) noexcept nogil
cdef void timer_set(TimerWheel *wheel, Timer *timer, uint64_t deadline_ms) noexcept nogil
cdef void timer_remove(TimerWheel *wheel, Timer *timer) noexcept nogil
# The next timer that is due at now_ms, removed from the wheel; NULL: none left.
cdef Timer *timer_wheel_expire(TimerWheel *wheel, uint64_t now_ms) noexcept nogil
# Milliseconds until a slot in use comes round (it may hold re-armed timers only); -1: none.
cdef int timer_wheel_wait_ms(const TimerWheel *wheel, uint64_t now_ms) noexcept nogil

cdef inline void timer_cancel(Timer *timer) noexcept nogil:
    timer.deadline_ms = 0
