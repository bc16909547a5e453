# See udp.pxd.

from libc.errno cimport (
    EAGAIN, EACCES, ECONNREFUSED, EHOSTUNREACH, EINTR, EMSGSIZE, ENETUNREACH, ENOBUFS, EPERM, errno,
)
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.sys cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, F_DUPFD_CLOEXEC, IP_PKTINFO,
    IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, IPV6_RECVPKTINFO, IPV6_V6ONLY, MSG_NOSIGNAL,
    SK_MEMINFO_DROPS, SK_MEMINFO_VARS, SO_MEMINFO, SO_RCVBUF, SO_SNDBUF, SOCK_CLOEXEC, SOCK_DGRAM,
    SOCK_NONBLOCK, SOL_SOCKET, bind, close, cmsghdr, connect, fcntl, getsockopt, in6_pktinfo,
    in_pktinfo, mmsghdr, msghdr, recvmmsg, sendmmsg, setsockopt, sockaddr, sockaddr_in,
    sockaddr_in6, sockaddr_storage, socket, socklen_t,
)
from proxy_engine_core.io.worker cimport CONN_READABLE, Conn

cdef enum:
    # The largest datagram, and a little more: so that the first lines of all slots, which is
    # all most use, are not in the same lines of the cache.
    SLOT_SIZE = 65 * 1024
    # Bytes the kernel may hold for us while others have their turn; it takes what
    # net.core.rmem_max allows.
    RECEIVE_BUFFER = 1 << 20


cdef UdpInput *udp_input_new() noexcept nogil:
    # Pages that no large datagram touches are never had.
    cdef UdpInput *batch = <UdpInput *>calloc(1, sizeof(UdpInput))
    if batch == NULL:
        return NULL
    batch.bytes = <uint8_t *>malloc(UDP_BATCH * SLOT_SIZE)
    if batch.bytes == NULL:
        free(batch)
        return NULL
    return batch


cdef void udp_input_free(UdpInput *batch) noexcept nogil:
    if batch != NULL:
        free(batch.bytes)
        free(batch)


# --- opening ----------------------------------------------------------------------------

cdef int set_option(int fd, int level, int option, int value) noexcept nogil:
    return setsockopt(fd, level, option, &value, sizeof(value))


cdef int new_socket(const Address *address) noexcept nogil:
    cdef int fd = socket(
        address.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if fd < 0:
        return -errno
    set_option(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER)
    set_option(fd, SOL_SOCKET, SO_SNDBUF, RECEIVE_BUFFER)
    return fd


cdef int udp_bind(const Address *address) noexcept nogil:
    cdef int fd = new_socket(address)
    cdef int error
    if fd < 0:
        return fd
    # On a host with several addresses an answer must come from the one that was asked.
    if address.storage.ss_family == AF_INET6:
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)
    if bind(fd, <const sockaddr *>&address.storage, address.size) < 0:
        error = errno
        close(fd)
        return -error
    return fd


cdef int udp_connect(const Address *address) noexcept nogil:
    cdef int fd = new_socket(address)
    cdef int error
    if fd < 0:
        return fd
    if connect(fd, <const sockaddr *>&address.storage, address.size) < 0:
        error = errno
        close(fd)
        return -error
    return fd


cdef int udp_share(int fd) noexcept nogil:
    cdef int shared = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    return -errno if shared < 0 else shared


cdef bint udp_is_wildcard(const Address *address) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>&address.storage
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>&address.storage
    cdef int index
    if address.storage.ss_family == AF_INET:
        return v4.sin_addr.s_addr == 0
    for index in range(16):
        if v6.sin6_addr.s6_addr[index]:
            return False
    return True


# --- reading ----------------------------------------------------------------------------

cdef int udp_receive(Conn *conn, UdpInput *batch) noexcept nogil:
    cdef int index, received
    for index in range(UDP_BATCH):
        batch.spans[index].iov_base = batch.bytes + index * SLOT_SIZE
        batch.spans[index].iov_len = SLOT_SIZE
        batch.messages[index].msg_hdr.msg_name = &batch.addresses[index].storage
        batch.messages[index].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
        batch.messages[index].msg_hdr.msg_iov = &batch.spans[index]
        batch.messages[index].msg_hdr.msg_iovlen = 1
        batch.messages[index].msg_hdr.msg_control = batch.control[index]
        batch.messages[index].msg_hdr.msg_controllen = UDP_CONTROL_SIZE
    while True:
        received = recvmmsg(conn.fd, batch.messages, UDP_BATCH, 0, NULL)
        if received >= 0 or errno != EINTR:
            break
    if received < 0:
        if errno == EAGAIN:
            conn.flags &= ~CONN_READABLE
        return -errno
    if received < UDP_BATCH:
        conn.flags &= ~CONN_READABLE      # drained, or an error that has an edge of its own
    for index in range(received):
        batch.addresses[index].size = batch.messages[index].msg_hdr.msg_namelen
    return received if received else -EAGAIN


cdef const uint8_t *udp_payload(const UdpInput *batch, int index) noexcept nogil:
    return batch.bytes + index * SLOT_SIZE


cdef uint32_t udp_size(const UdpInput *batch, int index) noexcept nogil:
    return batch.messages[index].msg_len


cdef bint udp_same_source(const UdpInput *batch, int one, int other) noexcept nogil:
    return batch.addresses[one].size == batch.addresses[other].size and memcmp(
        &batch.addresses[one].storage, &batch.addresses[other].storage, batch.addresses[one].size
    ) == 0


cdef void udp_local(const UdpInput *batch, int index, UdpLocal *local) noexcept nogil:
    cdef cmsghdr *header = CMSG_FIRSTHDR(&batch.messages[index].msg_hdr)
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    local.size = 0
    local.scope = 0
    if header == NULL:
        return
    if header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
        memcpy(&v4, CMSG_DATA(header), sizeof(v4))
        memcpy(local.bytes, &v4.ipi_spec_dst, 4)
        local.size = 4
    elif header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
        memcpy(&v6, CMSG_DATA(header), sizeof(v6))
        memcpy(local.bytes, &v6.ipi6_addr, 16)
        local.size = 16
        if local.bytes[0] == 0xFE and local.bytes[1] & 0xC0 == 0x80:
            local.scope = v6.ipi6_ifindex


# --- writing ----------------------------------------------------------------------------

cdef void udp_output_to(
    UdpOutput *batch, Address *address, const UdpLocal *local
) noexcept nogil:
    batch.count = 0
    batch.address = address
    batch.control_size = 0
    if local != NULL and local.size:
        fill_control(batch, local)


cdef void fill_control(UdpOutput *batch, const UdpLocal *local) noexcept nogil:
    # The same for all messages: the kernel only reads it.
    cdef msghdr message
    cdef cmsghdr *header
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    memset(batch.control, 0, UDP_CONTROL_SIZE)
    message.msg_control = batch.control
    message.msg_controllen = UDP_CONTROL_SIZE
    header = CMSG_FIRSTHDR(&message)
    if local.size == 4:
        memset(&v4, 0, sizeof(v4))
        memcpy(&v4.ipi_spec_dst, local.bytes, 4)
        header.cmsg_level = IPPROTO_IP
        header.cmsg_type = IP_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(v4))
        memcpy(CMSG_DATA(header), &v4, sizeof(v4))
        batch.control_size = <uint32_t>CMSG_SPACE(sizeof(v4))
        return
    memset(&v6, 0, sizeof(v6))
    memcpy(&v6.ipi6_addr, local.bytes, 16)
    v6.ipi6_ifindex = local.scope
    header.cmsg_level = IPPROTO_IPV6
    header.cmsg_type = IPV6_PKTINFO
    header.cmsg_len = CMSG_LEN(sizeof(v6))
    memcpy(CMSG_DATA(header), &v6, sizeof(v6))
    batch.control_size = <uint32_t>CMSG_SPACE(sizeof(v6))


cdef void udp_output_put(UdpOutput *batch, uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef mmsghdr *message = &batch.messages[batch.count]
    CHECK(batch.count < UDP_BATCH)
    batch.spans[batch.count].iov_base = bytes
    batch.spans[batch.count].iov_len = size
    memset(message, 0, sizeof(mmsghdr))
    message.msg_hdr.msg_iov = &batch.spans[batch.count]
    message.msg_hdr.msg_iovlen = 1
    if batch.address != NULL:
        message.msg_hdr.msg_name = &batch.address.storage
        message.msg_hdr.msg_namelen = batch.address.size
    if batch.control_size:
        message.msg_hdr.msg_control = batch.control
        message.msg_hdr.msg_controllen = batch.control_size
    batch.count += 1


cdef uint32_t udp_output_size(const UdpOutput *batch) noexcept nogil:
    cdef uint32_t index
    cdef size_t total = 0
    for index in range(batch.count):
        total += batch.spans[index].iov_len
    return <uint32_t>total


cdef uint32_t udp_output_send(int fd, UdpOutput *batch, int *error) noexcept nogil:
    cdef uint32_t place = 0, lost = 0
    cdef bint has_told = False            # an error of an earlier datagram; this one is sent again
    cdef int sent
    error[0] = 0
    while place < batch.count:
        sent = sendmmsg(fd, &batch.messages[place], batch.count - place, MSG_NOSIGNAL)
        if sent > 0:
            place += <uint32_t>sent
            has_told = False
        elif errno == EINTR:
            continue
        elif errno == EAGAIN or errno == ENOBUFS:
            lost += batch.count - place
            break
        elif is_of_icmp(errno) and not has_told:
            error[0] = errno
            has_told = True
        else:
            lost += 1
            place += 1
            has_told = False
    batch.count = 0
    return lost


cdef bint is_of_icmp(int error) noexcept nogil:
    return error in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EACCES, EPERM, EMSGSIZE)


cdef uint32_t udp_overruns(int fd) noexcept nogil:
    cdef uint32_t values[SK_MEMINFO_VARS]
    cdef socklen_t size = sizeof(values)
    memset(values, 0, sizeof(values))
    if getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &size) < 0:
        return 0
    return values[<int>SK_MEMINFO_DROPS]
