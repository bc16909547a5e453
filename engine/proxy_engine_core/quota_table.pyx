# See quota_table.pxd.

cimport cython
from libc.stdint cimport uint64_t, uintptr_t

from proxy_engine_core.quota cimport (
    Quota, quota_drop, quota_is_idle, quota_new, quota_set,
)

cdef enum:
    TRIM_AT_MIN = 1024

# Largest connections, requests and bytes a second: what the arithmetic of buckets is good for.
LIMITS_MAX = (1_000_000_000, 1_000_000, 100_000_000_000)


def check_limits(tuple limits):
    if len(limits) != 3:
        raise ValueError("limits are (connections, requests, bytes)")
    for value, most in zip(limits, LIMITS_MAX):
        if not 0 <= value <= most:
            raise ValueError(f"a limit of this kind is 0 to {most}, not {value}")


@cython.no_gc_clear                       # __dealloc__ reads the dict
cdef class QuotaTable:
    def __cinit__(self):
        self.addresses = {}
        self.trim_at = TRIM_AT_MIN

    def __dealloc__(self):
        for address in self.addresses.values():
            quota_drop(<Quota *><uintptr_t>address)

    cdef Quota *get(self, uint64_t key, tuple limits) except? NULL:
        cdef Quota *quota = self.find(key)
        check_limits(limits)
        if key == 0:
            return NULL
        if quota == NULL:
            if len(self.addresses) >= self.trim_at:
                self.trim()
            quota = quota_new(key)
            if quota == NULL:
                raise MemoryError
            self.addresses[key] = <uintptr_t>quota
        quota_set(quota, limits[0], limits[1], limits[2])
        return quota

    cdef Quota *find(self, uint64_t key):
        address = self.addresses.get(key)
        return NULL if address is None else <Quota *><uintptr_t>address

    cdef int trim(self) except -1:
        # Those that no link has any more. Only we give references to ones that have none.
        cdef Quota *quota
        for key, address in list(self.addresses.items()):
            quota = <Quota *><uintptr_t>address
            if quota_is_idle(quota):
                del self.addresses[key]
                quota_drop(quota)
        self.trim_at = max(TRIM_AT_MIN, 2 * len(self.addresses))
        return 0
