# See policy.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from proxy_engine_core.check cimport CHECK


cdef Policy *policy_new(const uint8_t *packed, uint32_t size) noexcept nogil:
    cdef Policy *policy = <Policy *>malloc(size)
    if policy == NULL:
        return NULL
    memcpy(policy, packed, size)
    CHECK(policy.size == size)
    policy.references = 1
    return policy


cdef void policy_hold(Policy *policy) noexcept nogil:
    policy.references += 1


cdef void policy_release(Policy *policy) noexcept nogil:
    if policy == NULL:
        return
    CHECK(policy.references > 0)
    policy.references -= 1
    if policy.references == 0:
        free(policy)


cdef bint policy_equal(const Policy *one, const Policy *other) noexcept nogil:
    if one == NULL or other == NULL:
        return one == other
    # All but the counts of who holds them.
    return one.size == other.size and memcmp(
        &one.size, &other.size, one.size - sizeof(one.references)
    ) == 0
