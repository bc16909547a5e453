/* Preloaded into a server: who sends "X-Test-Stall-Ms: N" holds up the thread that reads it for N
 * milliseconds, in here, or for as long as there is a file $STALL_WHILE. For tests of what watches
 * threads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char MARK[] = "X-Test-Stall-Ms: ";

__attribute__((noinline)) void stall_for_a_test(long milliseconds)
{
    const char *file = getenv("STALL_WHILE");
    struct timespec end, now;
    unsigned looks = 0;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += milliseconds / 1000;
    end.tv_nsec += milliseconds % 1000 * 1000000;
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (file != NULL && ++looks % 65536 == 0 && access(file, F_OK) != 0)
            break;
    } while ((now.tv_sec - end.tv_sec) * 1000000000 + now.tv_nsec - end.tv_nsec < 0);
}

ssize_t recv(int fd, void *target, size_t size, int flags)
{
    static ssize_t (*next)(int, void *, size_t, int);
    ssize_t got;
    char *found;
    if (next == NULL)
        next = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
    got = next(fd, target, size, flags);
    if (got > 0 && (found = memmem(target, (size_t)got, MARK, sizeof MARK - 1)) != NULL)
        stall_for_a_test(strtol(found + sizeof MARK - 1, NULL, 10));
    return got;
}
