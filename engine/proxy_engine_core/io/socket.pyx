# See socket.pxd.

from libc.errno cimport EADDRINUSE, EAFNOSUPPORT, EINPROGRESS, EINVAL, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen

from proxy_engine_core.io.sys cimport (
    AF_INET, AF_INET6, AF_UNIX, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, SHUT_WR, SIOCOUTQ,
    SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_ERROR, SO_KEEPALIVE, SO_LINGER,
    SO_RCVBUF, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, TCP_CONGESTION, TCP_KEEPCNT, TCP_KEEPIDLE,
    TCP_KEEPINTVL, TCP_NODELAY, TCP_NOTSENT_LOWAT, TCP_QUICKACK, accept4, bind, close, connect,
    getsockname, getsockopt, htons, inet_ntop, inet_pton, ioctl, linger, listen, ntohs, setsockopt,
    shutdown, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, sockaddr_un, socket, socklen_t,
)

cdef enum:
    KEEPALIVE_PROBES = 3
    PROBES_MAX = 10                       # ports tried when any will do

cdef uint8_t[12] MAPPED_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]


cdef int address_parse(Address *address, const char *ip, uint16_t port) noexcept nogil:
    cdef sockaddr_in *v4 = <sockaddr_in *>&address.storage
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&address.storage
    memset(address, 0, sizeof(Address))
    if inet_pton(AF_INET, ip, &v4.sin_addr) == 1:
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        address.size = sizeof(sockaddr_in)
        return 0
    if inet_pton(AF_INET6, ip, &v6.sin6_addr) == 1:
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(port)
        address.size = sizeof(sockaddr_in6)
        return 0
    return -EINVAL


cdef int address_unix(Address *address, const char *path, size_t size) noexcept nogil:
    cdef sockaddr_un *local = <sockaddr_un *>&address.storage
    memset(address, 0, sizeof(Address))
    if size == 0 or size >= sizeof(local.sun_path):
        return -EINVAL
    local.sun_family = AF_UNIX
    memcpy(local.sun_path, path, size)
    # An abstract name ends where the address does, a path with its NUL.
    address.size = <uint32_t>(sizeof(sockaddr_un) - sizeof(local.sun_path) + size)
    if path[0] == b"@":
        local.sun_path[0] = 0
    else:
        address.size += 1
    return 0


cdef int address_text(const Address *address, char *target) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>&address.storage
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>&address.storage
    cdef const char *text = NULL
    if address.storage.ss_family == AF_INET:
        text = inet_ntop(AF_INET, &v4.sin_addr, target, ADDRESS_TEXT_SIZE)
    elif address.storage.ss_family == AF_INET6:
        if memcmp(v6.sin6_addr.s6_addr, MAPPED_PREFIX, 12) == 0:
            text = inet_ntop(AF_INET, v6.sin6_addr.s6_addr + 12, target, ADDRESS_TEXT_SIZE)
        else:
            text = inet_ntop(AF_INET6, &v6.sin6_addr, target, ADDRESS_TEXT_SIZE)
    if text == NULL:
        memcpy(target, b"unknown", 8)
    return <int>strlen(target)


cdef void address_set(
    Address *address, const uint8_t *source, uint32_t size, uint16_t port
) noexcept nogil:
    cdef sockaddr_in *v4 = <sockaddr_in *>&address.storage
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&address.storage
    memset(address, 0, sizeof(Address))
    if size == 4:
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        memcpy(&v4.sin_addr, source, 4)
        address.size = sizeof(sockaddr_in)
    else:
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(port)
        memcpy(v6.sin6_addr.s6_addr, source, 16)
        address.size = sizeof(sockaddr_in6)


cdef uint16_t address_port(const Address *address) noexcept nogil:
    # sin_port and sin6_port share their place.
    return ntohs((<const sockaddr_in *>&address.storage).sin_port)


cdef int address_bytes(const Address *address, uint8_t *target) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>&address.storage
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>&address.storage
    if address.storage.ss_family == AF_INET:
        memcpy(target, &v4.sin_addr, 4)
        return 4
    if address.storage.ss_family != AF_INET6:
        return 0
    if memcmp(v6.sin6_addr.s6_addr, MAPPED_PREFIX, 12) == 0:
        memcpy(target, v6.sin6_addr.s6_addr + 12, 4)
        return 4
    memcpy(target, v6.sin6_addr.s6_addr, 16)
    return 16


cdef bint address_is_loopback(const Address *address) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>&address.storage
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>&address.storage
    cdef const uint8_t *bytes
    cdef int index
    if address.storage.ss_family == AF_INET:
        return (<const uint8_t *>&v4.sin_addr)[0] == 127
    if address.storage.ss_family != AF_INET6:
        return False
    bytes = <const uint8_t *>&v6.sin6_addr
    if memcmp(bytes, MAPPED_PREFIX, 12) == 0:
        return bytes[12] == 127
    for index in range(15):
        if bytes[index]:
            return False
    return bytes[15] == 1


cdef int set_option(int fd, int level, int option, int value) noexcept nogil:
    return setsockopt(fd, level, option, &value, sizeof(value))


cdef int socket_bind(const Address *address, bint is_shared) noexcept nogil:
    cdef int fd = socket(
        address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    cdef int error
    if fd < 0:
        return -errno
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)
    if is_shared:
        set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)
    if address.storage.ss_family == AF_INET6:
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)
    if bind(fd, <const sockaddr *>&address.storage, address.size) < 0:
        error = errno
        close(fd)
        return -error
    return fd


cdef int socket_listen(
    const Address *address, int backlog, uint64_t keepalive_ms, bint is_shared
) noexcept nogil:
    cdef int fd = socket_bind(address, is_shared)
    cdef int error
    if fd >= 0:
        # What it accepts inherits these: a system call less for each connection and option.
        socket_tune(fd, address)
        socket_keep_alive(fd, keepalive_ms)
    if fd >= 0 and listen(fd, backlog) < 0:
        error = errno
        close(fd)
        return -error
    return fd


cdef int probe_port(const Address *address) noexcept nogil:
    # Bind without SO_REUSEPORT, so that whoever has the port already shows; never listen, so
    # that nobody connects to what is closed again. The port, or -errno.
    cdef int fd = socket_bind(address, False)
    cdef int port
    if fd < 0:
        return fd
    port = socket_local_port(fd)
    close(fd)
    return port


cdef int socket_listen_all(
    const Address *address, int backlog, uint64_t keepalive_ms, int *fds, uint32_t count
) noexcept nogil:
    cdef Address bound = address[0]
    cdef uint32_t made = 0
    cdef int port, _attempt
    if count == 1:
        fds[0] = socket_listen(address, backlog, keepalive_ms, False)
        return fds[0] if fds[0] < 0 else 0
    for _attempt in range(PROBES_MAX):
        port = probe_port(address)
        if port < 0:
            return port
        # sin_port and sin6_port share their place.
        (<sockaddr_in *>&bound.storage).sin_port = htons(<uint16_t>port)
        made = 0
        while made < count:
            fds[made] = socket_listen(&bound, backlog, keepalive_ms, True)
            if fds[made] < 0:
                break
            made += 1
        if made == count:
            return 0
        port = fds[made]                  # the error
        while made:
            made -= 1
            close(fds[made])
        # Somebody was faster: with a port of our choice, choose again.
        if port != -EADDRINUSE or address_port(address) != 0:
            break
    return port


cdef int socket_local_address(int fd, Address *address) noexcept nogil:
    cdef socklen_t size = sizeof(sockaddr_storage)
    if getsockname(fd, <sockaddr *>&address.storage, &size) < 0:
        return -errno
    address.size = size
    return 0


cdef int socket_local_port(int fd) noexcept nogil:
    cdef Address address
    cdef int error = socket_local_address(fd, &address)
    return error if error < 0 else address_port(&address)


cdef int socket_accept(int listener_fd, Address *peer) noexcept nogil:
    cdef socklen_t size = sizeof(sockaddr_storage)
    cdef int fd = accept4(
        listener_fd, <sockaddr *>&peer.storage, &size, SOCK_NONBLOCK | SOCK_CLOEXEC
    )
    if fd < 0:
        return -errno
    peer.size = size
    return fd


cdef int socket_open(const Address *address, uint64_t keepalive_ms) noexcept nogil:
    cdef int fd
    if address.size == 0:
        return -EAFNOSUPPORT
    fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    if address.storage.ss_family != AF_UNIX:
        socket_tune(fd, address)
        socket_keep_alive(fd, keepalive_ms)
    return fd


cdef int socket_connect(int fd, const Address *address) noexcept nogil:
    cdef int error
    if fd < 0:
        return fd
    if connect(fd, <const sockaddr *>&address.storage, address.size) < 0 and errno != EINPROGRESS:
        error = errno
        close(fd)
        return -error
    return fd


cdef int socket_error(int fd) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0:
        return -errno
    return -error


cdef void socket_tune(int fd, const Address *peer) noexcept nogil:
    # We batch by ourselves, so Nagle only adds delay. Some systems default to bbr,
    # which paces on loopback and halves its throughput: reno there, which any process
    # may choose. On real networks the system's choice stands. What was not sent yet waits
    # with us, where budgets count it: the kernel would take megabytes for each reader that
    # stalls, and a thousand of those exhaust its memory for TCP. Best effort, all of it.
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    socket_set_unsent(fd, SOCKET_UNSENT)
    socket_tune_path(fd, peer)


cdef void socket_tune_path(int fd, const Address *peer) noexcept nogil:
    if address_is_loopback(peer):
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b"reno", 4)


cdef void socket_keep_alive(int fd, uint64_t after_ms) noexcept nogil:
    cdef int seconds = <int>((after_ms + 999) // 1000)
    if seconds == 0:
        return
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds)
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, max(1, seconds // KEEPALIVE_PROBES))
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES)


cdef void socket_set_delay(int fd) noexcept nogil:
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 0)


cdef void socket_acknowledge(int fd) noexcept nogil:
    set_option(fd, IPPROTO_TCP, TCP_QUICKACK, 1)


cdef void socket_set_buffers(int fd, uint32_t size) noexcept nogil:
    set_option(fd, SOL_SOCKET, SO_SNDBUF, <int>size)
    set_option(fd, SOL_SOCKET, SO_RCVBUF, <int>size)


cdef void socket_set_unsent(int fd, uint32_t size) noexcept nogil:
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, <int>size)


cdef void socket_finish_writing(int fd) noexcept nogil:
    shutdown(fd, SHUT_WR)


cdef void socket_reset_on_close(int fd) noexcept nogil:
    cdef linger value
    value.l_onoff = 1
    value.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value))


cdef uint32_t socket_unacknowledged(int fd) noexcept nogil:
    cdef int size = 0
    return <uint32_t>size if ioctl(fd, SIOCOUTQ, &size) == 0 and size > 0 else 0


cdef void socket_close(int fd) noexcept nogil:
    close(fd)
