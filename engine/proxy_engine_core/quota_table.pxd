# The control plane's quotas (quota.pxd) by its keys. Holds the GIL.

from libc.stdint cimport uint64_t

from proxy_engine_core.quota cimport Quota


cdef class QuotaTable:
    cdef dict addresses               # of quotas, by key; each is one of our references
    cdef Py_ssize_t trim_at

    # The quota of a key, new or not, with these limits (connections, requests/s, bytes/s); NULL for
    # the key 0. The caller adds a reference for whoever gets it. Raises ValueError, MemoryError.
    cdef Quota *get(self, uint64_t key, tuple limits) except? NULL
    cdef Quota *find(self, uint64_t key)             # NULL: nobody has it
    cdef int trim(self) except -1
