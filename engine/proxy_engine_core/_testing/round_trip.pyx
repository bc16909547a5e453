"""The round trip of a link, as pings add up to it."""

cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memset

from proxy_engine_core.link.round_trip cimport (
    RoundTrip as CRoundTrip, round_trip_add, round_trip_known,
)


@cython.final
cdef class RoundTrip:
    cdef CRoundTrip trip

    def __cinit__(self):
        memset(&self.trip, 0, sizeof(CRoundTrip))

    def add(self, uint64_t us, uint64_t moved):
        """A ping took `us` while `moved` bytes passed; whether to ping again soon."""
        return bool(round_trip_add(&self.trip, us, moved))

    @property
    def us(self):
        """Microseconds; 0: not known yet."""
        return round_trip_known(&self.trip)
