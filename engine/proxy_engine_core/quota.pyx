# See quota.pxd.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.atomic cimport (
    atomic_add, atomic_compare_exchange, atomic_load_relaxed, atomic_store_release,
    atomic_subtract,
)
from proxy_engine_core.bucket cimport bucket_spent, bucket_taken, bucket_wait_us
from proxy_engine_core.check cimport CHECK

cdef extern from *:
    """
    #define QUOTA_REFERENCE ((uint64_t)1 << 32)
    """
    uint64_t REFERENCE "QUOTA_REFERENCE"  # one, in `held`


cdef Quota *quota_new(uint64_t key) noexcept nogil:
    cdef Quota *quota = <Quota *>calloc(1, sizeof(Quota))
    if quota != NULL:
        quota.key = key
        quota.held = REFERENCE
    return quota


cdef void quota_hold(Quota *quota) noexcept nogil:
    if quota != NULL:
        atomic_add(&quota.held, REFERENCE)


cdef void quota_drop(Quota *quota) noexcept nogil:
    if quota == NULL:
        return
    CHECK(atomic_load_relaxed(&quota.held) >= REFERENCE)
    if atomic_subtract(&quota.held, REFERENCE) == 0:
        free(quota)


cdef bint quota_is_idle(const Quota *quota) noexcept nogil:
    return atomic_load_relaxed(&quota.held) == REFERENCE


cdef bint quota_set(
    Quota *quota, uint64_t connections_max, uint64_t request_rate, uint64_t byte_rate
) noexcept nogil:
    cdef bint is_new_rate = request_rate != quota.request_rate
    cdef bint is_new_bandwidth = byte_rate != quota.byte_rate
    if not is_new_rate and not is_new_bandwidth and connections_max == quota.connections_max:
        return False
    atomic_store_release(&quota.connections_max, connections_max)
    atomic_store_release(&quota.request_rate, request_rate)
    atomic_store_release(&quota.byte_rate, byte_rate)
    # What is left of the old one is time at the old rate.
    if is_new_rate:
        atomic_store_release(&quota.requests_full_ns, 0)
    if is_new_bandwidth:
        atomic_store_release(&quota.bytes_full_ns, 0)
    atomic_store_release(
        &quota.is_limited, connections_max != 0 or request_rate != 0 or byte_rate != 0
    )
    return True


cdef void quota_end(Quota *quota) noexcept nogil:
    atomic_store_release(&quota.is_ended, 1)


cdef bint quota_enter(Quota *quota) noexcept nogil:
    cdef uint64_t most = atomic_load_relaxed(&quota.connections_max)
    cdef uint64_t held = atomic_load_relaxed(&quota.held)
    while True:
        if most and <uint32_t>held >= most:
            return False
        if atomic_compare_exchange(&quota.held, &held, held + 1):
            return True


cdef void quota_enter_anyway(Quota *quota) noexcept nogil:
    atomic_add(&quota.held, 1)


cdef void quota_leave(Quota *quota) noexcept nogil:
    CHECK(quota_connections(quota) > 0)
    if atomic_subtract(&quota.held, 1) == 0:
        free(quota)


cdef bint quota_take_request(Quota *quota, uint64_t now_us, uint64_t burst_ms) noexcept nogil:
    cdef uint64_t rate = atomic_load_relaxed(&quota.request_rate)
    cdef uint64_t full = atomic_load_relaxed(&quota.requests_full_ns)
    cdef uint64_t taken
    if rate == 0:
        return True
    while True:
        taken = bucket_taken(full, now_us, rate, burst_ms)
        if taken == 0:
            return False
        if atomic_compare_exchange(&quota.requests_full_ns, &full, taken):
            return True


cdef uint64_t quota_spend(
    Quota *quota, uint64_t now_us, uint32_t size, uint64_t burst_ms
) noexcept nogil:
    cdef uint64_t rate = atomic_load_relaxed(&quota.byte_rate)
    cdef uint64_t full = atomic_load_relaxed(&quota.bytes_full_ns)
    cdef uint64_t spent
    if rate == 0:
        return 0
    while True:
        spent = bucket_spent(full, now_us, rate, size)
        if atomic_compare_exchange(&quota.bytes_full_ns, &full, spent):
            return bucket_wait_us(spent, now_us, burst_ms)


cdef uint64_t quota_wait_us(const Quota *quota, uint64_t now_us, uint64_t burst_ms) noexcept nogil:
    if atomic_load_relaxed(&quota.byte_rate) == 0:
        return 0
    return bucket_wait_us(atomic_load_relaxed(&quota.bytes_full_ns), now_us, burst_ms)
