# Sockets: addresses, options, opening. Every function returns >= 0 or -errno.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.io.sys cimport sockaddr_storage


cdef enum:
    ADDRESS_TEXT_SIZE = 48        # an IPv6 address as text, NUL included
    # Bytes a connection may hold unsent in the kernel: on a link, what goes in front of a
    # ping or a small stream. More only adds delay; our own buffer orders what waits.
    SOCKET_UNSENT = 128 * 1024

cdef struct Address:
    sockaddr_storage storage
    uint32_t size                 # bytes of `storage` in use; 0: none

cdef int address_parse(Address *address, const char *ip, uint16_t port) noexcept nogil  # 0, -EINVAL
# A socket of this machine: a path, or "@NAME" in the abstract namespace (unix(7)), without NUL.
cdef int address_unix(Address *address, const char *path, size_t size) noexcept nogil   # 0, -EINVAL
# IP literal as text (IPv4-mapped IPv6 as plain IPv4); returns its length.
cdef int address_text(const Address *address, char *target) noexcept nogil
cdef uint16_t address_port(const Address *address) noexcept nogil
# An address from its bytes as they go over the wire: 4 of IPv4 or 16 of IPv6.
cdef void address_set(
    Address *address, const uint8_t *source, uint32_t size, uint16_t port
) noexcept nogil
cdef int socket_local_address(int fd, Address *address) noexcept nogil         # 0, -errno
# The address alone into `target` (16 bytes), IPv4-mapped IPv6 as IPv4: 4, 16 or 0 (neither).
cdef int address_bytes(const Address *address, uint8_t *target) noexcept nogil
cdef bint address_is_loopback(const Address *address) noexcept nogil

# A non-blocking listening socket with SO_REUSEPORT when `is_shared` (one per worker). What it
# accepts has its keepalive.
cdef int socket_listen(
    const Address *address, int backlog, uint64_t keepalive_ms, bint is_shared
) noexcept nogil
# `count` listening sockets on one address, for as many workers; nobody outside shares them.
# Port 0: any, the same for all. 0 or -errno.
cdef int socket_listen_all(
    const Address *address, int backlog, uint64_t keepalive_ms, int *fds, uint32_t count
) noexcept nogil
cdef int socket_local_port(int fd) noexcept nogil
cdef int socket_accept(int listener_fd, Address *peer) noexcept nogil
# A non-blocking socket for a connection to this address.
cdef int socket_open(const Address *address, uint64_t keepalive_ms) noexcept nogil
# A non-blocking connect: the fd, connecting or connected (writable tells); on failure it is closed.
# A negative fd, the error of socket_open(), stays what it is.
cdef int socket_connect(int fd, const Address *address) noexcept nogil
cdef int socket_error(int fd) noexcept nogil                      # the pending SO_ERROR, negative
cdef void socket_tune(int fd, const Address *peer) noexcept nogil
# The part of it that depends on the peer.
cdef void socket_tune_path(int fd, const Address *peer) noexcept nogil
# Ask a silent peer whether it is there: after so long, then three times within as long again.
# Without an answer the connection is broken. 0: never.
cdef void socket_keep_alive(int fd, uint64_t after_ms) noexcept nogil
# Small writes wait for the acknowledgement of those before, or for a full segment (Nagle).
cdef void socket_set_delay(int fd) noexcept nogil
# Acknowledge what was read now, not a while later.
cdef void socket_acknowledge(int fd) noexcept nogil
cdef void socket_set_buffers(int fd, uint32_t size) noexcept nogil        # each way, bytes
# Bytes it may hold that were not sent yet; 0: as many as the kernel has room for.
cdef void socket_set_unsent(int fd, uint32_t size) noexcept nogil
cdef void socket_finish_writing(int fd) noexcept nogil            # shutdown(SHUT_WR)
cdef void socket_reset_on_close(int fd) noexcept nogil            # close() will send RST, not FIN
cdef void socket_close(int fd) noexcept nogil
# Bytes that were sent and the peer has not acknowledged; 0: none, or it can not be told.
cdef uint32_t socket_unacknowledged(int fd) noexcept nogil
