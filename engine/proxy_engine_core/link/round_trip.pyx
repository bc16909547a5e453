# See round_trip.pxd.

from libc.stdint cimport uint32_t, uint64_t


cdef inline bint is_longer(uint64_t us, uint64_t than) noexcept nogil:
    return us > than + max(than // 2, <uint64_t>ROUND_TRIP_LONGER_US)


cdef bint round_trip_add(RoundTrip *trip, uint64_t us, uint64_t moved) noexcept nogil:
    cdef uint64_t rate
    us = max(<uint64_t>1, min(us, <uint64_t>ROUND_TRIP_US_MAX))
    if trip.samples < ROUND_TRIP_SAMPLES_MIN:
        trip.samples += 1
        trip.us = us if trip.us == 0 else min(us, trip.us)
        return False
    if us <= trip.us or not is_longer(us, trip.us) and moved >= ROUND_TRIP_QUIET_SIZE:
        trip.row = 0
        if is_longer(trip.us, us):
            trip.raised_rate = 0          # the next to be longer is another story
        trip.us = min(us, trip.us)
        return False
    if moved < ROUND_TRIP_QUIET_SIZE:
        trip.us += (us - trip.us) // 4
        return False
    rate = min(moved * 1000 // us, <uint64_t>0xFFFFFFFF)
    if rate * 4 > <uint64_t>trip.raised_rate * 3 and rate * 4 < <uint64_t>trip.raised_rate * 5:
        trip.row = 0                      # as fast as before: it is the queue
        return False
    trip.row_us = <uint32_t>(us if trip.row == 0 else min(us, <uint64_t>trip.row_us))
    trip.row += 1
    if trip.row < ROUND_TRIP_ROW:
        return True
    trip.us = trip.row_us
    trip.raised_rate = <uint32_t>rate
    trip.row = 0
    return False
