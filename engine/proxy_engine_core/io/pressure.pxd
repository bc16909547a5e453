# When memory or file descriptors run short: who is refused, and from when on again.
#
#   buffers lent of memory_max:   50 %  windows grow no more and shrink    until 40 %
#                                 75 %  new work is answered 503           until 65 %
#                                 90 %  connections are no longer accepted until 80 %
#                                100 %  who needs more is cut off
#
# The lower marks are lower so that nothing flips at every request. File descriptors are
# handed out lowest first, so a number near the limit says that all below are in use: the
# last `files_reserve` are left to the control plane, its store and targets.
#
# Each change is one EVENT_PRESSURE.

from libc.stdint cimport uint32_t

from proxy_engine_core.io.worker cimport Worker


cdef enum PressureLevel:
    PRESSURE_NONE = 0
    PRESSURE_GROWTH                       # windows grow no more
    PRESSURE_WORK                         # no new requests
    PRESSURE_ACCEPT                       # no new connections

cdef enum PressureKind:                   # of EVENT_PRESSURE
    PRESSURE_OF_MEMORY = 0
    PRESSURE_OF_FILES = 1

cdef void pressure_init(Worker *worker) noexcept nogil
# Once a turn: the level of memory may have changed.
cdef void pressure_look(Worker *worker) noexcept nogil
# Whether a listener must wait. `fd` is any open one.
cdef bint pressure_stops_accept(Worker *worker, int fd) noexcept nogil
# A connection was accepted as `fd`.
cdef void pressure_accepted(Worker *worker, int fd) noexcept nogil
# Whether `size` bytes more may be kept for a peer that does not take them.
cdef bint pressure_may_keep(const Worker *worker, uint32_t size) noexcept nogil
