# See timer.pxd.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from proxy_engine_core.check cimport CHECK

cdef extern from *:
    int count_trailing_zeros "__builtin_ctzll"(unsigned long long) nogil


cdef void timer_wheel_init(TimerWheel *wheel, uint64_t now_ms) noexcept nogil:
    memset(wheel, 0, sizeof(TimerWheel))
    wheel.tick = now_ms // TIMER_TICK_MS


cdef void insert(TimerWheel *wheel, Timer *timer) noexcept nogil:
    # The slot after the deadline's tick, so that it is never early.
    cdef uint64_t tick = timer.deadline_ms // TIMER_TICK_MS + 1
    cdef uint32_t slot
    if tick < wheel.tick:
        tick = wheel.tick
    if tick > wheel.tick + TIMER_SLOTS - 2:
        tick = wheel.tick + TIMER_SLOTS - 2
    slot = <uint32_t>(tick & (TIMER_SLOTS - 1))
    timer.slot = slot
    timer.next = wheel.slots[slot]
    if timer.next != NULL:
        timer.next.link = &timer.next
    timer.link = &wheel.slots[slot]
    wheel.slots[slot] = timer
    wheel.used[slot >> 6] |= <uint64_t>1 << (slot & 63)


cdef void timer_remove(TimerWheel *wheel, Timer *timer) noexcept nogil:
    if timer.link == NULL:
        return
    timer.link[0] = timer.next
    if timer.next != NULL:
        timer.next.link = timer.link
    timer.link = NULL
    timer.next = NULL
    if wheel.slots[timer.slot] == NULL:
        wheel.used[timer.slot >> 6] &= ~(<uint64_t>1 << (timer.slot & 63))


cdef void timer_set(TimerWheel *wheel, Timer *timer, uint64_t deadline_ms) noexcept nogil:
    CHECK(deadline_ms != 0)
    if timer.link != NULL:
        if deadline_ms >= timer.deadline_ms and timer.deadline_ms != 0:
            timer.deadline_ms = deadline_ms       # later: found out when its slot comes round
            return
        timer_remove(wheel, timer)
    timer.deadline_ms = deadline_ms
    insert(wheel, timer)


cdef Timer *timer_wheel_expire(TimerWheel *wheel, uint64_t now_ms) noexcept nogil:
    cdef uint64_t now_tick = now_ms // TIMER_TICK_MS
    cdef Timer *timer
    cdef uint32_t slot
    while wheel.tick <= now_tick:
        slot = <uint32_t>(wheel.tick & (TIMER_SLOTS - 1))
        timer = wheel.slots[slot]
        if timer == NULL:
            wheel.tick += 1
            continue
        timer_remove(wheel, timer)
        if timer.deadline_ms == 0:
            continue
        if timer.deadline_ms <= now_ms:
            timer.deadline_ms = 0
            return timer
        # Re-armed meanwhile, or further away than one round. Never into the slot
        # being emptied, or this loop would not end: that is why insert() stops two
        # short of a round.
        wheel.tick += 1
        insert(wheel, timer)
        wheel.tick -= 1
    return NULL


cdef int timer_wheel_wait_ms(const TimerWheel *wheel, uint64_t now_ms) noexcept nogil:
    cdef uint32_t start = <uint32_t>(wheel.tick & (TIMER_SLOTS - 1))
    cdef uint32_t word = start >> 6
    cdef uint64_t bits = wheel.used[word] & (~<uint64_t>0 << (start & 63))
    cdef uint32_t _word, slot
    cdef uint64_t due_ms
    for _word in range(TIMER_WORDS + 1):
        if bits:
            slot = (word << 6) + count_trailing_zeros(bits)
            due_ms = (wheel.tick + ((slot - start) & (TIMER_SLOTS - 1))) * TIMER_TICK_MS
            return 0 if due_ms <= now_ms else <int>(due_ms - now_ms)
        word = (word + 1) & (TIMER_WORDS - 1)
        bits = wheel.used[word]
    return -1
