# Bytes from one connection to another, looked at by nobody: copied while they are few, spliced
# through a pipe, so that they never enter this process, when they are many. How many is the
# tunnel's profile's word.
#
#   source --recv--> the worker's scratch --send--> target     what it refuses waits in target.out
#   source --splice--> pipe --splice--> target                 ... or in the pipe
#
# What is inside TLS is always copied.
#
# Otherwise a target holds little that was not sent (profile.unsent): what waits, waits here, where
# budgets count it. In bulk that makes us send each piece ourselves, at once; what stands in the
# kernel instead leaves in full segments as the receiver's acknowledgements come. So spliced
# ways are *deep*, as long as they are bulk and few enough for their worker's memory.
#
# A side that does not take what is offered stops the reading of the other; an end is passed on
# behind the last byte. A pipe is borrowed for as long as something is in it, so a connection that
# rests has none: pipes are file descriptors, and count as memory of their size.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.io.worker cimport Conn, Pipe, Worker


cdef enum:
    RELAY_BUDGET = 1024 * 1024            # bytes one way before others get a turn
    RELAY_PAUSE_SIZE = 8 * 1024           # a read that brings less is a pause
    RELAY_BULK_MAX = 1024 * 1024          # bytes without a pause that count: few pauses end bulk
    RELAY_PIPE_SIZE = 1024 * 1024
    RELAY_PIPE_SIZE_MIN = 128 * 1024      # less costs more than copying
    # What the kernel may hold for a deep socket, and which part of memory_max all of them.
    RELAY_DEEP_SIZE = 4 * 1024 * 1024
    RELAY_DEEP_PART = 8

cdef enum RelayResult:
    RELAY_WAITS                           # for either connection: an edge will come
    RELAY_GOES_ON                         # the budget is used up: requeue
    RELAY_DONE                            # the end has been passed on
    RELAY_BROKEN                          # one of the two is CONN_BROKEN

cdef struct RelayWay:                     # one direction
    Pipe pipe
    const Profile *profile
    uint32_t piped                        # bytes in it
    uint32_t bulk                         # bytes lately, halved by every pause
    uint64_t bytes                        # read so far
    bint is_deep                          # the target's kernel takes what it has room for
    bint is_ended                         # the source has finished
    # ... which is believed, and passed on, when this is cleared: a process that is killed leaves
    # ends behind that look like any other.
    bint awaits_word
    bint is_told                          # ... and the target knows

# Move what can be moved. From ready() of either connection, once per way.
cdef int relay_move(RelayWay *way, Conn *source, Conn *target) noexcept nogil
cdef void relay_free(RelayWay *way, Worker *worker) noexcept nogil      # drops what is in the pipe
cdef void relay_free_worker(Worker *worker) noexcept nogil              # the pipes kept
