# How far away a peer is, from pings that share their line with everything else.
#
# What windows need is the round trip of an empty line; what a ping sees on a line in use is that
# and the queues in front of it, which larger windows only make longer. So the least counts. A
# longer one counts when the line was quiet meanwhile, by a quarter; and on a line in use when ROW
# of them say so one after the other, and something else has changed, too: windows that feed on a
# queue of their own leave the rate as it was when the round trip was raised last, while a line that
# became longer makes it fall, and the window that then grows makes it rise.

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    ROUND_TRIP_SAMPLES_MIN = 3            # the first may have met a machine busy elsewhere
    ROUND_TRIP_QUIET_SIZE = 64 * 1024     # bytes both ways during a ping: fewer make no queue
    ROUND_TRIP_ROW = 4
    # By so much, and by half, a busy line's ping must be longer: windows are 1.7 to 3.3 times
    # what they have to be, and less is what a busy machine takes.
    ROUND_TRIP_LONGER_US = 10_000
    ROUND_TRIP_US_MAX = 10_000_000        # a longer one says the peer was away

cdef struct RoundTrip:
    uint64_t us                           # as measured so far; 0: never
    uint32_t samples
    uint32_t row                          # pings in a row that took much longer ...
    uint32_t row_us                       # ... the least of them
    uint32_t raised_rate                  # bytes/ms when a row counted last; 0: none did

# A ping took so long, and `moved` bytes passed meanwhile. True: it is worth to look again soon.
cdef bint round_trip_add(RoundTrip *trip, uint64_t us, uint64_t moved) noexcept nogil

cdef inline uint64_t round_trip_known(const RoundTrip *trip) noexcept nogil:
    # 0: not yet.
    return trip.us if trip.samples >= ROUND_TRIP_SAMPLES_MIN else 0
