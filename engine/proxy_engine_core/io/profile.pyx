# See profile.pxd.

from libc.stdint cimport uint8_t

from proxy_engine_core.io.socket cimport (
    SOCKET_UNSENT, socket_set_buffers, socket_set_delay, socket_set_unsent,
)

cdef enum:
    KIB = 1024

cdef Profile[3] PROFILES = [
    Profile(
        id=PROFILE_BALANCED, no_delay=True, is_fixed=False, read_size=32 * KIB,
        read_size_max=256 * KIB, bulk_size=256 * KIB, unsent=SOCKET_UNSENT, socket_size=0,
    ),
    Profile(
        id=PROFILE_THROUGHPUT, no_delay=False, is_fixed=False, read_size=128 * KIB,
        read_size_max=256 * KIB, bulk_size=128 * KIB, unsent=1024 * KIB, socket_size=0,
    ),
    Profile(
        id=PROFILE_LATENCY, no_delay=True, is_fixed=True, read_size=8 * KIB,
        read_size_max=8 * KIB, bulk_size=0, unsent=16 * KIB, socket_size=64 * KIB,
    ),
]


cdef const Profile *profile_get(uint8_t id) noexcept nogil:
    return &PROFILES[id if id < PROFILE_COUNT else PROFILE_BALANCED]


cdef void profile_apply(const Profile *profile, int fd) noexcept nogil:
    if profile.id == PROFILE_BALANCED:
        return                            # what every socket begins with
    socket_set_unsent(fd, profile.unsent)
    if not profile.no_delay:
        socket_set_delay(fd)
    if profile.socket_size:
        socket_set_buffers(fd, profile.socket_size)
