# The system calls and constants the engine uses; only names in use. Nothing outside
# io/ cimports this file.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport time_t


cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int pipe2(int *fds, int flags)
    ssize_t write(int fd, const void *source, size_t size)

cdef extern from "<fcntl.h>" nogil:
    cdef enum:
        F_DUPFD_CLOEXEC
        F_SETPIPE_SZ
        O_NONBLOCK
        O_CLOEXEC
        SPLICE_F_MOVE
        SPLICE_F_NONBLOCK
    int fcntl(int fd, int command, ...)
    ssize_t splice(
        int source, void *source_offset, int target, void *target_offset, size_t size,
        unsigned int flags
    )

cdef extern from "<sys/resource.h>" nogil:
    cdef enum:
        RLIMIT_NOFILE
    ctypedef unsigned long rlim_t
    cdef struct rlimit:
        rlim_t rlim_cur
        rlim_t rlim_max
    int getrlimit(int resource, rlimit *limit)

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_NONBLOCK
    int EFD_CLOEXEC

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int events_max, int timeout_ms)
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    uint32_t EPOLLRDHUP
    uint32_t EPOLLHUP
    uint32_t EPOLLERR
    uint32_t EPOLLET

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *value)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME
    ctypedef int clockid_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        uint16_t sun_family
        char[108] sun_path

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(const msghdr *message)
    uint8_t *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int socket(int domain, int kind, int protocol)
    int bind(int fd, const sockaddr *address, socklen_t size)
    int listen(int fd, int backlog)
    int connect(int fd, const sockaddr *address, socklen_t size)
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int shutdown(int fd, int how)
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
    ssize_t recv(int fd, void *target, size_t size, int flags)
    ssize_t send(int fd, const void *source, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int AF_INET
    int AF_INET6
    int AF_UNIX
    int SOCK_STREAM
    int SOCK_DGRAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    cdef struct linger:
        int l_onoff
        int l_linger
    int SO_ERROR
    int SO_KEEPALIVE
    int SO_LINGER
    int SO_MEMINFO
    int SO_RCVBUF
    int SO_SNDBUF
    int SO_REUSEADDR
    int SO_REUSEPORT
    int SHUT_WR
    int MSG_NOSIGNAL
    int MSG_PEEK

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    int SIOCOUTQ

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    cdef struct in_pktinfo:
        in_addr ipi_spec_dst
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_IP
    int IPPROTO_TCP
    int IP_PKTINFO
    int IPV6_PKTINFO
    int IPV6_RECVPKTINFO
    int IPPROTO_IPV6
    int IPV6_V6ONLY

cdef extern from "<linux/sock_diag.h>" nogil:
    cdef enum:
        SK_MEMINFO_DROPS
        SK_MEMINFO_VARS

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_KEEPCNT
    int TCP_KEEPIDLE
    int TCP_KEEPINTVL
    int TCP_NODELAY
    int TCP_CONGESTION
    int TCP_NOTSENT_LOWAT
    int TCP_QUICKACK

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *target)
    const char *inet_ntop(int family, const void *source, char *target, socklen_t size)
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *target, size_t size, unsigned int flags)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *signals)
    int sigdelset(sigset_t *signals, int signal)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *previous)
    int SIG_SETMASK
    int SIGSEGV
    int SIGBUS
    int SIGFPE
    int SIGILL
    int SIGABRT

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(
        pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *) noexcept nogil,
        void *argument
    )
    int pthread_join(pthread_t thread, void **result)
    pthread_t pthread_self()
    int pthread_setcancelstate(int state, int *previous)
    int pthread_setcanceltype(int kind, int *previous)
    int PTHREAD_CANCEL_DISABLE
    int PTHREAD_CANCEL_ASYNCHRONOUS
    int pthread_setname_np(pthread_t thread, const char *name)
    int pthread_getcpuclockid(pthread_t thread, clockid_t *clock)
