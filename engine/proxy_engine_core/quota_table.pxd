# The control plane's quotas (quota.pxd) by its keys: a hash table chained through them. Holds the
# GIL.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.quota cimport Quota


cdef class QuotaTable:
    cdef Quota **buckets              # a power of two; each quota is one of our references
    cdef uint32_t bucket_count
    cdef Py_ssize_t count
    cdef Py_ssize_t trim_at

    # The quota of a key, new or not, with these limits (connections, requests/s, bytes/s); NULL for
    # the key 0. The caller adds a reference for whoever gets it. Raises ValueError, MemoryError.
    cdef Quota *get(self, uint64_t key, tuple limits) except? NULL
    cdef Quota *find(self, uint64_t key) noexcept            # NULL: nobody has it
    cdef int grow(self) except -1
    cdef void trim(self) noexcept
