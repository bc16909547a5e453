# See udp_ports.pxd.

import os

cimport cython
from libc.stdint cimport uint16_t, uint32_t

from proxy_engine_core.io.socket cimport Address, socket_close, socket_local_port
from proxy_engine_core.io.udp cimport udp_bind, udp_share
from proxy_engine_core.io.worker cimport handle_worker
from proxy_engine_core.mail cimport address_read, post_udp_close, post_udp_listen

cdef str PREFIX = "udp::"


cdef int check(int outcome, str what="") except -1:
    if outcome < 0:
        raise OSError(-outcome, os.strerror(-outcome), what or None)
    return outcome


@cython.no_gc_clear                       # the engine closes it when it goes itself
cdef class UdpPorts:
    def __cinit__(self):
        self.sockets = {}
        self.workers = {}

    cdef int open(self, str host, int port) except -1:
        cdef Address address
        cdef int fd, bound
        cdef uint32_t worker
        address_read(&address, host, port, 0)
        fd = check(udp_bind(&address), f"{host}:{port}")
        bound = socket_local_port(fd)
        if bound < 0:
            socket_close(fd)
            check(bound)
        wanted = self.workers.get(bound)
        worker = wanted[0] if wanted else <uint32_t>bound % self.crew.worker_count
        self.sockets[bound] = (fd, worker)
        try:
            self.hand_out(bound)
        except BaseException:
            del self.sockets[bound]
            socket_close(fd)
            raise
        return bound

    cdef int hand_out(self, int port) except -1:
        cdef int fd
        cdef uint32_t worker
        fd, worker = self.sockets[port]
        post_udp_listen(self.crew, worker, <uint16_t>port, check(udp_share(fd)))
        return 0

    cdef int close_port(self, int port) except -1:
        cdef int fd
        cdef uint32_t worker
        if port not in self.sockets:
            return 0
        fd, worker = self.sockets[port]
        post_udp_close(self.crew, worker, <uint16_t>port)
        del self.sockets[port]
        socket_close(fd)
        return 0

    cdef int routed(self, str key, list links) except -1:
        cdef int port
        cdef uint32_t worker
        if not key.startswith(PREFIX):
            return 0
        port = int(key.removeprefix(PREFIX))
        self.workers.pop(port, None)
        if not links:
            return 0                      # who comes now is refused where it is
        self.workers[port] = [handle_worker(link) for link in links]
        if port not in self.sockets:
            return 0
        fd, worker = self.sockets[port]
        if worker not in self.workers[port]:
            self.sockets[port] = (fd, self.workers[port][0])
            self.hand_out(port)
            post_udp_close(self.crew, worker, <uint16_t>port)
        return 0

    cdef void close(self) noexcept:
        for fd, _ in self.sockets.values():
            socket_close(fd)
        self.sockets.clear()
