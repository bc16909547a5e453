# What a connection's socket takes and gives, as it is: without TLS, and below it.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t

from proxy_engine_core.io.sys cimport MSG_NOSIGNAL, recv, send
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_HUP, CONN_READABLE, CONN_WRITABLE, Conn,
)


cdef inline int64_t raw_recv(Conn *conn, uint8_t *target, size_t size) noexcept nogil:
    # Bytes read; 0: the peer finished; -EAGAIN; other -errno (CONN_BROKEN is set).
    cdef ssize_t received
    while True:
        received = recv(conn.fd, target, size, 0)
        if received > 0:
            # A short read means the socket is drained; with HUP seen there may be an
            # end of file behind the bytes that raises no further edge.
            if <size_t>received < size and not conn.flags & CONN_HUP:
                conn.flags &= ~CONN_READABLE
            return received
        if received == 0:
            conn.flags &= ~CONN_READABLE
            conn.flags |= CONN_HUP
            return 0
        if errno == EINTR:
            continue
        conn.flags &= ~CONN_READABLE
        if errno != EAGAIN:
            conn.flags |= CONN_BROKEN
        return -errno


cdef inline int64_t raw_sent(Conn *conn, ssize_t sent, size_t size) noexcept nogil:
    # What a call that was to send `size` bytes gave: bytes taken (0 with CONN_WRITABLE clear:
    # full), -EINTR: call again, other -errno.
    cdef int error = errno
    if sent >= 0:
        if <size_t>sent < size:
            conn.flags &= ~CONN_WRITABLE
        return sent
    if error == EINTR:
        return -EINTR
    conn.flags &= ~CONN_WRITABLE
    return 0 if error == EAGAIN else -error


cdef inline int64_t raw_send(Conn *conn, const uint8_t *source, size_t size) noexcept nogil:
    cdef int64_t outcome = -EINTR
    while outcome == -EINTR:
        outcome = raw_sent(conn, send(conn.fd, source, size, MSG_NOSIGNAL), size)
    return outcome
