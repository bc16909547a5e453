# What a tunnel's connections are for: bulk, dialogues, or anybody's guess. How much is read of one
# at a time, and what the kernel may hold of it. All of its connections have the profile that held
# when they began: the visitor's, the target's, the direct one between them, or the stream.

from libc.stdint cimport uint8_t, uint32_t


cdef enum ProfileId:                      # on the wire, too: TLV E1 of a preamble
    PROFILE_BALANCED = 0
    PROFILE_THROUGHPUT
    PROFILE_LATENCY
    PROFILE_COUNT

cdef struct Profile:
    uint8_t id
    bint no_delay                         # small writes leave at once
    bint is_fixed                         # windows of streams do not grow
    uint32_t read_size                    # bytes of a read, at first ...
    uint32_t read_size_max                # ... and while they come without a pause
    uint32_t bulk_size                    # after so many of those they are spliced; 0: never
    uint32_t unsent                       # bytes the kernel holds that were not sent yet
    uint32_t socket_size                  # SO_SNDBUF, SO_RCVBUF; 0: as large as the line wants

# An unknown id is PROFILE_BALANCED.
cdef const Profile *profile_get(uint8_t id) noexcept nogil
# Tell the kernel, of a socket that socket_tune() has seen. Best effort.
cdef void profile_apply(const Profile *profile, int fd) noexcept nogil
