/* Fail the n-th call: LD_PRELOADed, it makes one system call or allocation of the engine fail.
 *
 * Only calls whose return address lies in an extension module of proxy_engine_core count, so
 * Python, its libraries and the test's own sockets never notice. Calls are counted by who
 * makes them: 0 is Python's threads (setting an engine up), 1, 2, ... the engines' workers in
 * the order in which they started; a worker says that it is one by naming its thread.
 *
 * The engine is edge-triggered, so EAGAIN and short counts are told as the kernel would: an
 * edge follows as soon as there is something to do. Failing a call that is made at all, but
 * reported as failed (an eventfd's write), is marked below.
 *
 * Under ASan this library comes before its runtime (verify_asan_link_order=0): what is not
 * made to fail goes on to ASan's interceptors, which so still see every buffer.
 *
 * Built and driven by scripts/fail-nth.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))real(REAL_##name, #name))
#define CALLER __builtin_return_address(0)

enum {
    WHO_MAX = 8, RANGES_MAX = 256, FDS_MAX = 65536, SHORT = -1,
    BUCKET_COUNT = 16384, BUCKET_SIZE = 8  /* far more than the engine's allocations */
};

/* What is counted. The order is that of failnth_names. */
enum Call {
    ALLOC, RECV, SEND, SENDMSG, ACCEPT4, CONNECT, EPOLL_WAIT, EPOLL_CTL, SOCKET, EVENTFD, WRITE,
    SETSOCKOPT, GETSOCKOPT, BIND, LISTEN, GETSOCKNAME, EPOLL_CREATE1, GETRANDOM,
    PTHREAD_CREATE, SPLICE, PIPE2, FCNTL, RECVMMSG, SENDMMSG, CALL_COUNT
};
static const char names[] =
    "alloc recv send sendmsg accept4 connect epoll_wait epoll_ctl socket eventfd write "
    "setsockopt getsockopt bind listen getsockname epoll_create1 getrandom "
    "pthread_create splice pipe2 fcntl recvmmsg sendmmsg";

enum Real {
    REAL_malloc, REAL_calloc, REAL_realloc, REAL_free, REAL_recv, REAL_send, REAL_sendmsg,
    REAL_accept4, REAL_connect, REAL_epoll_wait, REAL_epoll_ctl, REAL_socket, REAL_eventfd,
    REAL_write, REAL_setsockopt, REAL_getsockopt, REAL_bind, REAL_listen,
    REAL_getsockname, REAL_epoll_create1, REAL_getrandom, REAL_pthread_create,
    REAL_pthread_setname_np, REAL_splice, REAL_pipe2, REAL_fcntl64, REAL_recvmmsg,
    REAL_sendmmsg, REAL_COUNT
};

typedef struct {
    uintptr_t start, end;
} Range;

static void *reals[REAL_COUNT];
static Range ranges[RANGES_MAX];
static int range_count;
static atomic_long counts[WHO_MAX][CALL_COUNT];
static void *blocks[BUCKET_COUNT][BUCKET_SIZE]; /* the engine's allocations */
static atomic_flag blocks_lock = ATOMIC_FLAG_INIT;
static long live;                    /* how many there are */
static atomic_int workers;           /* that have started since failnth_begin() */
static atomic_long fired;            /* calls made to fail */
/* initial-exec: the other model may allocate. */
static __thread int who __attribute__((tls_model("initial-exec")));

/* Written before the engines start, so plain words will do. */
static int armed_who, armed_call = -1, armed_how;
static long armed_first, armed_last;
static int is_traced;                /* print the stack of each call made to fail */

/* How each fd was registered: to raise its edge again. */
static struct {
    int epoll_fd;
    struct epoll_event event;
} registered[FDS_MAX];

/* dlsym() frees the text of an earlier error: nothing is asked from within it. Volatile, since
 * gcc believes that dlsym() never calls back. */
static __thread volatile int resolving __attribute__((tls_model("initial-exec")));

static void *real(int index, const char *name)
{
    if (reals[index] == NULL) {
        resolving = 1;
        reals[index] = dlsym(RTLD_NEXT, name);
        resolving = 0;
    }
    return reals[index];
}

static int is_engine(void *caller)
{
    uintptr_t address = (uintptr_t)caller;
    for (int index = 0; index < range_count; index++)
        if (address >= ranges[index].start && address < ranges[index].end)
            return 1;
    return 0;
}

/* 0: let it be; an errno: fail; SHORT. */
static int verdict(enum Call call, void *caller)
{
    long number;
    if (range_count == 0 || !is_engine(caller))
        return 0;
    number = atomic_fetch_add(&counts[who][call], 1) + 1;
    if ((int)call != armed_call || who != armed_who || number < armed_first
        || number > armed_last)
        return 0;
    atomic_fetch_add(&fired, 1);
    if (is_traced) {
        void *frames[12];
        backtrace_symbols_fd(frames, backtrace(frames, 12), STDERR_FILENO);
    }
    return armed_how;
}

static int failed(int error)
{
    errno = error;
    return -1;
}

static void raise_edge(int fd)
{
    int before = errno;
    if (fd >= 0 && fd < FDS_MAX && registered[fd].epoll_fd)
        REAL(epoll_ctl)(registered[fd].epoll_fd, EPOLL_CTL_MOD, fd, &registered[fd].event);
    errno = before;
}

/* An ordinary failure of a call on `fd`. */
static int failed_on(int fd, int error)
{
    if (error == EAGAIN)
        raise_edge(fd);
    return failed(error);
}

/* --- for the test -------------------------------------------------------------------- */

static int add_ranges(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (strstr(info->dlpi_name, "proxy_engine_core") == NULL)
        return 0;
    for (int index = 0; index < info->dlpi_phnum && range_count < RANGES_MAX; index++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[index];
        if (header->p_type == PT_LOAD && header->p_flags & PF_X) {
            ranges[range_count].start = info->dlpi_addr + header->p_vaddr;
            ranges[range_count].end = ranges[range_count].start + header->p_memsz;
            range_count++;
        }
    }
    return 0;
}

EXPORT const char *failnth_names(void)
{
    return names;
}

/* Start counting from 0; calls first..last of `call` by `caller` fail as `how` says. */
EXPORT void failnth_begin(int caller, int call, long first, long last, int how)
{
    if (range_count == 0)
        dl_iterate_phdr(add_ranges, NULL);
    memset(counts, 0, sizeof(counts));
    memset(registered, 0, sizeof(registered));
    atomic_store(&workers, 0);
    atomic_store(&fired, 0);
    armed_who = caller;
    armed_call = call;
    armed_first = first;
    armed_last = last;
    armed_how = how;
}

EXPORT void failnth_trace(void)
{
    is_traced = 1;
}

EXPORT long failnth_count(int caller, int call)
{
    return atomic_load(&counts[caller][call]);
}

EXPORT long failnth_fired(void)
{
    return atomic_load(&fired);
}

EXPORT long failnth_live(void)
{
    return live;
}

/* --- memory -------------------------------------------------------------------------- */

/* Put `to` where `from` is, among the blocks of one bucket; False: it is not there. */
static int exchange(void *block, void *from, void *to)
{
    void **bucket = blocks[((uintptr_t)block >> 4) * 2654435761u % BUCKET_COUNT];
    int index;
    while (atomic_flag_test_and_set(&blocks_lock))
        ;
    for (index = 0; index < BUCKET_SIZE && bucket[index] != from; index++)
        ;
    if (index < BUCKET_SIZE) {
        bucket[index] = to;
        live += from == NULL ? 1 : -1;
    }
    atomic_flag_clear(&blocks_lock);
    return index < BUCKET_SIZE;
}

static void *allocated(void *block, void *caller)
{
    if (block != NULL && range_count && is_engine(caller) && !exchange(block, NULL, block))
        abort();
    return block;
}

EXPORT void *malloc(size_t size)
{
    int error = verdict(ALLOC, CALLER);
    if (error) {
        errno = error;
        return NULL;
    }
    return allocated(REAL(malloc)(size), CALLER);
}

EXPORT void *calloc(size_t number, size_t size)
{
    int error = verdict(ALLOC, CALLER);
    if (error) {
        errno = error;
        return NULL;
    }
    return allocated(REAL(calloc)(number, size), CALLER);
}

EXPORT void *realloc(void *block, size_t size)
{
    int error = verdict(ALLOC, CALLER);
    if (error) {
        errno = error;
        return NULL;
    }
    if (range_count && block != NULL && exchange(block, block, NULL)) {
        void *moved = REAL(realloc)(block, size);
        exchange(moved ? moved : block, NULL, moved ? moved : block);
        return moved;
    }
    return allocated(REAL(realloc)(block, size), CALLER);
}

EXPORT void free(void *block)
{
    if (resolving)
        return;
    if (block != NULL && range_count)
        exchange(block, block, NULL);
    REAL(free)(block);
}

/* --- bytes --------------------------------------------------------------------------- */

EXPORT ssize_t recv(int fd, void *target, size_t size, int flags)
{
    int error = verdict(RECV, CALLER);
    ssize_t received;
    if (error > 0)
        return failed_on(fd, error);
    received = REAL(recv)(fd, target, error == SHORT && size > 1 ? 1 : size, flags);
    if (error == SHORT)
        raise_edge(fd);
    return received;
}

EXPORT ssize_t send(int fd, const void *source, size_t size, int flags)
{
    int error = verdict(SEND, CALLER);
    ssize_t sent;
    if (error > 0)
        return failed_on(fd, error);
    sent = REAL(send)(fd, source, error == SHORT ? (size + 1) / 2 : size, flags);
    if (error == SHORT)
        raise_edge(fd);
    return sent;
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    int error = verdict(SENDMSG, CALLER);
    struct msghdr part = *message;
    struct iovec first;
    ssize_t sent;
    if (error > 0)
        return failed_on(fd, error);
    if (error == SHORT && part.msg_iovlen > 0) {
        /* Ends in the middle of a span. */
        first = part.msg_iov[0];
        first.iov_len = (first.iov_len + 1) / 2;
        part.msg_iov = &first;
        part.msg_iovlen = 1;
    }
    sent = REAL(sendmsg)(fd, &part, flags);
    if (error == SHORT)
        raise_edge(fd);
    return sent;
}

EXPORT ssize_t splice(
    int source, loff_t *source_place, int target, loff_t *target_place, size_t size,
    unsigned int flags)
{
    int error = verdict(SPLICE, CALLER);
    ssize_t moved = -1;
    if (error > 0)
        errno = error;
    else
        moved = REAL(splice)(source, source_place, target, target_place,
                             error == SHORT && size > 1 ? 1 : size, flags);
    /* One of the two is a pipe, which has no edge. */
    if (error == SHORT || error == EAGAIN) {
        raise_edge(source);
        raise_edge(target);
    }
    return moved;
}

EXPORT int recvmmsg(
    int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    int error = verdict(RECVMMSG, CALLER);
    int received;
    if (error > 0) {
        raise_edge(fd);
        return failed(error);
    }
    received = REAL(recvmmsg)(fd, messages, error == SHORT ? 1 : count, flags, timeout);
    if (error == SHORT)
        raise_edge(fd);
    return received;
}

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    int error = verdict(SENDMMSG, CALLER);
    if (error > 0)
        return failed_on(fd, error);
    return REAL(sendmmsg)(fd, messages, error == SHORT ? 1 : count, flags);
}

EXPORT ssize_t write(int fd, const void *source, size_t size)
{
    /* Only eventfds: EAGAIN means that the counter is full, so its reader is awake anyway. */
    int error = verdict(WRITE, CALLER);
    ssize_t written = REAL(write)(fd, source, size);
    return error > 0 ? failed(error) : written;
}

/* --- connections ----------------------------------------------------------------------- */

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    int error = verdict(ACCEPT4, CALLER);
    return error ? failed_on(fd, error) : REAL(accept4)(fd, address, size, flags);
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    int error = verdict(CONNECT, CALLER);
    return error ? failed(error) : REAL(connect)(fd, address, size);
}

EXPORT int socket(int domain, int type, int protocol)
{
    int error = verdict(SOCKET, CALLER);
    return error ? failed(error) : REAL(socket)(domain, type, protocol);
}

EXPORT int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int error = verdict(BIND, CALLER);
    return error ? failed(error) : REAL(bind)(fd, address, size);
}

EXPORT int listen(int fd, int backlog)
{
    int error = verdict(LISTEN, CALLER);
    return error ? failed(error) : REAL(listen)(fd, backlog);
}

EXPORT int getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    int error = verdict(GETSOCKNAME, CALLER);
    return error ? failed(error) : REAL(getsockname)(fd, address, size);
}

EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
    int error = verdict(GETSOCKOPT, CALLER);
    return error ? failed(error) : REAL(getsockopt)(fd, level, option, value, size);
}

EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
    /* SO_LINGER only fails for a value that is too small or not there, and a reset has no other
       way: without it what was cut off would look whole. */
    int is_linger = level == SOL_SOCKET && option == SO_LINGER;
    int error = is_linger ? 0 : verdict(SETSOCKOPT, CALLER);
    return error ? failed(error) : REAL(setsockopt)(fd, level, option, value, size);
}

EXPORT int pipe2(int fds[2], int flags)
{
    int error = verdict(PIPE2, CALLER);
    return error ? failed(error) : REAL(pipe2)(fds, flags);
}

/* What fcntl() is where files may be large. All of the engine's arguments are an int. */
EXPORT int fcntl64(int fd, int command, ...)
{
    int error = verdict(FCNTL, CALLER);
    va_list arguments;
    void *argument;
    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return error ? failed(error) : REAL(fcntl64)(fd, command, argument);
}

/* --- the loop -------------------------------------------------------------------------- */

EXPORT int epoll_create1(int flags)
{
    int error = verdict(EPOLL_CREATE1, CALLER);
    return error ? failed(error) : REAL(epoll_create1)(flags);
}

EXPORT int epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    int error = verdict(EPOLL_CTL, CALLER);
    if (error)
        return failed(error);
    if (fd >= 0 && fd < FDS_MAX && is_engine(CALLER)) {
        registered[fd].epoll_fd = operation == EPOLL_CTL_DEL ? 0 : epoll_fd;
        if (event != NULL)
            registered[fd].event = *event;
    }
    return REAL(epoll_ctl)(epoll_fd, operation, fd, event);
}

EXPORT int epoll_wait(int epoll_fd, struct epoll_event *events, int events_max, int timeout_ms)
{
    int error = verdict(EPOLL_WAIT, CALLER);
    if (error > 0)
        return failed(error);
    return REAL(epoll_wait)(epoll_fd, events, error == SHORT ? 1 : events_max, timeout_ms);
}

EXPORT int eventfd(unsigned int initial, int flags)
{
    int error = verdict(EVENTFD, CALLER);
    return error ? failed(error) : REAL(eventfd)(initial, flags);
}

EXPORT ssize_t getrandom(void *target, size_t size, unsigned int flags)
{
    int error = verdict(GETRANDOM, CALLER);
    return error ? failed(error) : REAL(getrandom)(target, size, flags);
}

/* --- threads --------------------------------------------------------------------------- */

EXPORT int pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    int error = verdict(PTHREAD_CREATE, CALLER);
    return error ? error : REAL(pthread_create)(thread, attributes, run, argument);
}

EXPORT int pthread_setname_np(pthread_t thread, const char *name)
{
    if (is_engine(CALLER))
        who = (atomic_fetch_add(&workers, 1) + 1) % WHO_MAX;
    return REAL(pthread_setname_np)(thread, name);
}
