# The sockets of UDP tunnels, and on which worker each is read.
#
# A port is one socket: with one for each worker (SO_REUSEPORT, as TCP has) the kernel would
# choose a visitor's worker by its address, and choose anew whenever a worker came or went. It is
# read where a link of its route is, and stays there for as long as there is one, because its
# visitors have their streams there. We keep a descriptor, the worker has its own, so that a
# socket can change workers without a moment in which its port is free.
#
# Holds the GIL. Messages to one worker arrive in the order they are posted.

from libc.stdint cimport uint16_t

from proxy_engine_core.io.worker cimport Crew


cdef class UdpPorts:
    cdef Crew *crew
    cdef dict sockets                     # (fd, worker), by port
    cdef dict workers                     # of the links of each port's route

    # Open one; the port bound. Raises OSError, ValueError.
    cdef int open(self, str host, int port) except -1
    cdef int hand_out(self, int port) except -1      # to its worker
    cdef int close_port(self, int port) except -1
    # The links of a port's route are these from now on.
    cdef int routed(self, str key, list links) except -1
    cdef void close(self) noexcept        # our descriptors, once no worker runs any more
