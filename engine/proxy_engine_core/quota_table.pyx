# See quota_table.pxd.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.quota cimport (
    Quota, quota_drop, quota_is_idle, quota_new, quota_set,
)

cdef enum:
    BUCKETS_MIN = 64                      # a power of two
    TRIM_AT_MIN = 1024

# Largest connections, requests and bytes a second: what the arithmetic of buckets is good for.
LIMITS_MAX = (1_000_000_000, 1_000_000, 100_000_000_000)


def check_limits(tuple limits):
    if len(limits) != 3:
        raise ValueError("limits are (connections, requests, bytes)")
    for value, most in zip(limits, LIMITS_MAX):
        if not 0 <= value <= most:
            raise ValueError(f"a limit of this kind is 0 to {most}, not {value}")


cdef inline uint32_t bucket_of(uint64_t key, uint32_t bucket_count) noexcept nogil:
    # Fibonacci hashing: keys are ids that count up, and the same with a high bit set.
    return <uint32_t>(key * <uint64_t>0x9E3779B97F4A7C15 >> 32) & (bucket_count - 1)


cdef class QuotaTable:
    def __cinit__(self):
        self.bucket_count = BUCKETS_MIN
        self.trim_at = TRIM_AT_MIN
        self.buckets = <Quota **>calloc(BUCKETS_MIN, sizeof(Quota *))
        if self.buckets == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Quota *quota
        cdef uint32_t index
        if self.buckets == NULL:
            return
        for index in range(self.bucket_count):
            while self.buckets[index] != NULL:
                quota = self.buckets[index]
                self.buckets[index] = quota.next
                quota_drop(quota)
        free(self.buckets)

    cdef Quota *get(self, uint64_t key, tuple limits) except? NULL:
        cdef Quota *quota = self.find(key)
        cdef Quota **bucket
        check_limits(limits)
        if key == 0:
            return NULL
        if quota == NULL:
            if self.count >= self.trim_at:
                self.trim()
            if self.count >= self.bucket_count:
                self.grow()
            quota = quota_new(key)
            if quota == NULL:
                raise MemoryError
            bucket = &self.buckets[bucket_of(key, self.bucket_count)]
            quota.next = bucket[0]
            bucket[0] = quota
            self.count += 1
        quota_set(quota, limits[0], limits[1], limits[2])
        return quota

    cdef Quota *find(self, uint64_t key) noexcept:
        cdef Quota *quota = self.buckets[bucket_of(key, self.bucket_count)]
        while quota != NULL and quota.key != key:
            quota = quota.next
        return quota

    cdef int grow(self) except -1:
        cdef uint32_t index, size = self.bucket_count * 2
        cdef Quota *quota
        cdef Quota **bucket
        cdef Quota **buckets = <Quota **>calloc(size, sizeof(Quota *))
        if buckets == NULL:
            raise MemoryError
        for index in range(self.bucket_count):
            while self.buckets[index] != NULL:
                quota = self.buckets[index]
                self.buckets[index] = quota.next
                bucket = &buckets[bucket_of(quota.key, size)]
                quota.next = bucket[0]
                bucket[0] = quota
        free(self.buckets)
        self.buckets = buckets
        self.bucket_count = size
        return 0

    cdef void trim(self) noexcept:
        # Those that no link has any more. Only we give references to ones that have none.
        cdef Quota **place
        cdef Quota *quota
        cdef uint32_t index
        for index in range(self.bucket_count):
            place = &self.buckets[index]
            while place[0] != NULL:
                quota = place[0]
                if quota_is_idle(quota):
                    place[0] = quota.next
                    quota_drop(quota)
                    self.count -= 1
                else:
                    place = &quota.next
        self.trim_at = max(TRIM_AT_MIN, 2 * self.count)
