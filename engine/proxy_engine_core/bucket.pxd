# Token buckets as one number (GCRA): when the bucket will be full again. Pure.
#
# A full bucket holds `burst_ns` worth of tokens, each worth interval_ns; taking one moves the
# moment of being full by an interval, and there is none to take when that moment would be
# more than the burst away. 0 is a full bucket, so a zeroed one starts full.

from libc.stdint cimport uint64_t


cdef inline bint bucket_take(
    uint64_t *full_ns, uint64_t now_us, uint64_t rate, uint64_t burst_ms
) noexcept nogil:
    # One token of `rate` a second; False: none left. A bucket holds at least one token.
    cdef uint64_t now_ns = now_us * 1000
    cdef uint64_t interval_ns = <uint64_t>1_000_000_000 // rate
    cdef uint64_t burst_ns = burst_ms * 1_000_000
    cdef uint64_t full = full_ns[0] if full_ns[0] > now_ns else now_ns
    if burst_ns < interval_ns:
        burst_ns = interval_ns
    if full - now_ns + interval_ns > burst_ns:
        return False
    full_ns[0] = full + interval_ns
    return True
