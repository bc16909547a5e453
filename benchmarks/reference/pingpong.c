/* One byte tunnel, one message on its way: pingpong PORT HOST SIZE WARM_UP COUNT
 *
 * Upgrades a connection, then sends SIZE bytes and waits for them to come back, COUNT
 * times after WARM_UP times that do not count. Prints the round trips' times as JSON, in
 * nanoseconds.
 */

#define _GNU_SOURCE
#include <stdint.h>
#include <time.h>

#include "loopback.h"

enum { MESSAGE_MAX = 64 << 10 };

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static int ascending(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void receive(int fd, char *target, size_t size) {
    while (size) {
        ssize_t got = recv(fd, target, size, 0);
        if (got <= 0) {
            if (!got) errno = ECONNRESET;
            fail("recv");
        }
        target += got;
        size -= got;
    }
}

static void upgrade(int fd, const char *host) {
    static const char END[] = "\r\n\r\n";
    char text[4096];
    int matched = 0, size = snprintf(
        text, sizeof text,
        "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", host);
    if (send(fd, text, size, MSG_NOSIGNAL) != size) fail("send");
    for (size = 0; matched < 4 && size < (int)sizeof text; size++) {
        receive(fd, text + size, 1);
        matched = text[size] == END[matched] ? matched + 1 : text[size] == '\r';
    }
    if (memcmp(text, "HTTP/1.1 101 ", 13)) {
        fprintf(stderr, "no upgrade: %.12s\n", text);
        exit(1);
    }
}

int main(int argument_count, char **arguments) {
    static char sent[MESSAGE_MAX], received[MESSAGE_MAX];
    if (argument_count != 6) {
        fprintf(stderr, "usage: pingpong PORT HOST SIZE WARM_UP COUNT\n");
        return 2;
    }
    size_t size = atoi(arguments[3]);
    long warm_up = atol(arguments[4]), count = atol(arguments[5]);
    uint64_t *times = calloc(count, sizeof *times), total = 0;
    if (!times || !count || !size || size > MESSAGE_MAX) {
        fprintf(stderr, "COUNT or SIZE is out of range\n");
        return 2;
    }
    memset(sent, 'x', size);
    int fd = connect_to(atoi(arguments[1]));
    upgrade(fd, arguments[2]);
    for (long round = -warm_up; round < count; round++) {
        sent[0] = (char)round;
        uint64_t started = now_ns();
        if (send(fd, sent, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send");
        receive(fd, received, size);
        if (round >= 0) total += times[round] = now_ns() - started;
        if (memcmp(sent, received, size)) {
            fprintf(stderr, "other bytes came back\n");
            return 1;
        }
    }
    qsort(times, count, sizeof *times, ascending);
    printf("{\"p50\": %llu, \"p99\": %llu, \"least\": %llu, \"mean\": %llu}\n",
           (unsigned long long)times[count / 2], (unsigned long long)times[count - 1 - count / 100],
           (unsigned long long)times[0], (unsigned long long)(total / count));
    return 0;
}
