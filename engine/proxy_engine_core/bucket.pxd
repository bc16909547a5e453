# Token buckets as one number (GCRA): when the bucket will be full again. Pure.
#
# A full bucket holds a burst's worth of tokens, each worth 1 / rate of a second; taking one moves
# the moment of being full by that much, and there is none to take when that moment would be
# more than the burst away. 0 is a full bucket, so a zeroed one starts full.
#
# Clocks only go forward. One that stood still or that is some milliseconds behind another's
# (workers read theirs once a turn) is stricter, never more generous.

from libc.stdint cimport uint32_t, uint64_t


cdef inline uint64_t bucket_taken(
    uint64_t full_ns, uint64_t now_us, uint64_t rate, uint64_t burst_ms
) noexcept nogil:
    # When it will be full with one token of `rate` a second less; 0: there is none to take. A
    # bucket holds at least one token.
    cdef uint64_t now_ns = now_us * 1000
    cdef uint64_t interval_ns = <uint64_t>1_000_000_000 // rate
    cdef uint64_t burst_ns = burst_ms * 1_000_000
    cdef uint64_t full = full_ns if full_ns > now_ns else now_ns
    if burst_ns < interval_ns:
        burst_ns = interval_ns
    if full - now_ns + interval_ns > burst_ns:
        return 0
    return full + interval_ns


cdef inline bint bucket_take(
    uint64_t *full_ns, uint64_t now_us, uint64_t rate, uint64_t burst_ms
) noexcept nogil:
    # One token; False: none left.
    cdef uint64_t full = bucket_taken(full_ns[0], now_us, rate, burst_ms)
    if full == 0:
        return False
    full_ns[0] = full
    return True


cdef inline uint64_t bucket_spent(
    uint64_t full_ns, uint64_t now_us, uint64_t rate, uint32_t size
) noexcept nogil:
    # When it will be full with `size` tokens less, whether it has them or not: a debt is a moment
    # further away than the burst. Stops at the end of time.
    cdef uint64_t now_ns = now_us * 1000
    cdef uint64_t full = full_ns if full_ns > now_ns else now_ns
    cdef uint64_t cost_ns = (<uint64_t>size * 1_000_000_000 + rate // 2) // rate
    if cost_ns > <uint64_t>0xFFFFFFFFFFFFFFFF - full:
        return <uint64_t>0xFFFFFFFFFFFFFFFF
    return full + cost_ns


cdef inline uint64_t bucket_wait_us(
    uint64_t full_ns, uint64_t now_us, uint64_t burst_ms
) noexcept nogil:
    # Until its debt is paid, rounded up; 0: it has none.
    cdef uint64_t free_ns = now_us * 1000 + burst_ms * 1_000_000
    return (full_ns - free_ns - 1) // 1000 + 1 if full_ns > free_ns else 0
