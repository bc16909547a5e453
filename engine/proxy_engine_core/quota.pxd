# What several links may carry together, on whichever workers they are: connections at once,
# requests a second, bytes a second. A quota is all of that as a few atomic numbers, shared by the
# links of one token (docs/adr/0015); the control plane has one for each, by a key of its own.
#
#   connections   entered and left again; one that would be too many is refused
#   requests      a token bucket: one that comes too soon is refused
#   bytes         a bucket that may be in debt: they have passed already, and who sent them waits
#                 until they are paid for, so each worker and each stream gets its turn
#
# Limits are read with every request and seldom written, the totals are written with every
# request: they are in different cache lines.
#
# Lifetime: it is freed by whoever lets go of it last, in any thread. `held` counts both
# references (links, messages on their way, the control plane's table) and connections.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.atomic cimport atomic_load_relaxed


cdef struct Quota:
    uint64_t key                          # what the control plane calls it
    uint64_t is_limited                   # any of these is set; atomic, as they are
    uint64_t connections_max              # 0: no limit
    uint64_t request_rate                 # per second; 0: no limit
    uint64_t byte_rate                    # per second; 0: no limit
    uint64_t is_ended                     # who was let in by it has to go
    Quota *next                           # quota_table.pxd
    uint8_t padding[56]
    uint64_t held                         # references 32 | connections 32
    uint64_t requests_full_ns             # bucket.pxd
    uint64_t bytes_full_ns

# With one reference, the caller's, and no limits; NULL: no memory.
cdef Quota *quota_new(uint64_t key) noexcept nogil
# Another reference, and one less. NULL is none.
cdef void quota_hold(Quota *quota) noexcept nogil
cdef void quota_drop(Quota *quota) noexcept nogil
# Nobody has a reference but the caller, who has one; no connection is counted.
cdef bint quota_is_idle(const Quota *quota) noexcept nogil
# Whether that changed anything. A rate that changes starts with a full bucket.
cdef bint quota_set(
    Quota *quota, uint64_t connections_max, uint64_t request_rate, uint64_t byte_rate
) noexcept nogil
cdef void quota_end(Quota *quota) noexcept nogil
# One connection more; False: it would be one too many. It holds the quota until it leaves.
cdef bint quota_enter(Quota *quota) noexcept nogil
cdef void quota_enter_anyway(Quota *quota) noexcept nogil        # it is there already
cdef void quota_leave(Quota *quota) noexcept nogil
# One request; False: too soon.
cdef bint quota_take_request(Quota *quota, uint64_t now_us, uint64_t burst_ms) noexcept nogil
# So many bytes have passed; microseconds that who sent them has to wait before sending more.
cdef uint64_t quota_spend(
    Quota *quota, uint64_t now_us, uint32_t size, uint64_t burst_ms
) noexcept nogil
# How long somebody who has sent nothing yet has to wait.
cdef uint64_t quota_wait_us(const Quota *quota, uint64_t now_us, uint64_t burst_ms) noexcept nogil

cdef inline bint quota_is_limited(const Quota *quota) noexcept nogil:
    return quota != NULL and atomic_load_relaxed(&quota.is_limited) != 0

cdef inline bint quota_has_bandwidth(const Quota *quota) noexcept nogil:
    return quota != NULL and atomic_load_relaxed(&quota.byte_rate) != 0

cdef inline bint quota_is_ended(const Quota *quota) noexcept nogil:
    return quota != NULL and atomic_load_relaxed(&quota.is_ended) != 0

cdef inline uint32_t quota_connections(const Quota *quota) noexcept nogil:
    return <uint32_t>atomic_load_relaxed(&quota.held)
