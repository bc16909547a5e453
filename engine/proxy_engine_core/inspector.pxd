# A look into the workers of an engine, for people: where they are, and what they have.

from proxy_engine_core.io.sampler cimport Profile
from proxy_engine_core.io.worker cimport Crew


cdef class Inspector:
    cdef Crew *crew                       # NULL: the engine is stopped, or about to
    cdef bint is_server
    cdef bint is_profiling
    cdef Profile profile

    cdef int check_usable(self) except -1
    cdef void close(self)
