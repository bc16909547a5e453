# Listening sockets: what they accept goes to worker.on_accept. Each worker has its own for a port
# (SO_REUSEPORT), and the kernel spreads connections over them.

from libc.stdint cimport uint16_t

from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport Conn, Worker


cdef struct Listener:
    Conn conn                             # must be first
    uint16_t port                         # of a TCP tunnel; 0: HTTP
    uint16_t tls_port                     # bound to, with TLS; 0: without
    bint is_loopback                      # bound there: nobody else can be the peer
    TlsContext *tls_context               # a reference; NULL: without TLS

cdef void listener_init_worker(Worker *worker) noexcept nogil
# Accept from a listening socket, which is taken over; `port` is a TCP tunnel's, else 0. 0, -errno.
cdef int listener_open(
    Worker *worker, int fd, uint16_t port, uint16_t tls_port, TlsContext *tls
) noexcept nogil
# New connections to the TLS listeners on this port use `tls`.
cdef void listener_set_tls(Worker *worker, uint16_t tls_port, TlsContext *tls) noexcept nogil
cdef void listener_close(Worker *worker, uint16_t port) noexcept nogil   # a TCP tunnel's
cdef void listener_close_all(Worker *worker) noexcept nogil
