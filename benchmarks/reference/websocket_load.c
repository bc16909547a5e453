/* A WebSocket load: websocket_load PORT CONNECTIONS SIZE SECONDS REPLY_HEADER_SIZE [HOST]
 *
 * Each connection has one binary message of SIZE (at most 125) bytes on its way at any
 * time. What comes back is counted by length and not looked at, the frame that goes out
 * is always the same: the server should be what limits. A tenth of the time warms up and
 * does not count. Prints one line of JSON.
 */

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#include "loopback.h"

enum { CONNECTIONS_MAX = 4096, EVENTS_MAX = 512, FRAME_MAX = 6 + 125 };

static const char REQUEST[] =
    "GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

static int missing[CONNECTIONS_MAX]; /* bytes of the answer still to come */
static int sockets[CONNECTIONS_MAX];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void upgrade(int fd, const char *host) {
    char head[4096];
    size_t size = snprintf(head, sizeof head, REQUEST, host);
    if (send(fd, head, size, MSG_NOSIGNAL) < 0) fail("send");
    size = 0;
    do {
        ssize_t got = recv(fd, head + size, 1, 0); /* byte by byte: nothing is read too far */
        if (got <= 0 || ++size == sizeof head) fail("no answer to the upgrade");
    } while (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4));
    if (memcmp(head, "HTTP/1.1 101", 12)) fail("the answer is not 101");
}

int main(int count, char **arguments) {
    struct epoll_event events[EVENTS_MAX];
    uint8_t frame[FRAME_MAX], answer[64 << 10];
    uint64_t messages = 0;
    if (count != 6 && count != 7) {
        fprintf(stderr, "usage: websocket_load PORT CONNECTIONS SIZE SECONDS REPLY_HEADER_SIZE"
                        " [HOST]\n");
        return 2;
    }
    int connections = atoi(arguments[2]), size = atoi(arguments[3]);
    double seconds = atof(arguments[4]);
    int answer_size = atoi(arguments[5]) + size;
    if (connections < 1 || connections > CONNECTIONS_MAX || size < 0 || size > 125) return 2;
    int frame_size = 6 + size, epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    memset(frame, 'x', sizeof frame);
    memcpy(frame, (uint8_t[]){0x82, 0x80 | size, 0x12, 0x34, 0x56, 0x78}, 6);
    for (int index = 0; index < connections; index++) {
        /* Edge-triggered, or each epoll_wait would look at the last one's sockets again. */
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = index};
        int fd = sockets[index] = connect_to(atoi(arguments[1]));
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
        upgrade(fd, count > 6 ? arguments[6] : "127.0.0.1");
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
    }
    for (int index = 0; index < connections; index++) {
        missing[index] = answer_size;
        if (send(sockets[index], frame, frame_size, MSG_NOSIGNAL) != frame_size) fail("send");
    }
    double start = now() + seconds / 10, cpu_start = cpu();
    int is_warm = 0;
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, 5000);
        if (ready == 0) fail("nothing came for 5 s");
        for (int event = 0; event < ready; event++) {
            int index = events[event].data.u32;
            ssize_t got = recv(sockets[index], answer, sizeof answer, 0);
            if (got <= 0) fail("recv");
            missing[index] -= got;
            if (missing[index] > 0) continue;
            if (missing[index] < 0) {
                fprintf(stderr, "an answer is longer than it should be\n");
                return 1;
            }
            messages++;
            missing[index] = answer_size;
            if (send(sockets[index], frame, frame_size, MSG_NOSIGNAL) != frame_size) fail("send");
        }
        double time = now();
        if (!is_warm && time >= start) {
            is_warm = 1;
            start = time;
            cpu_start = cpu();
            messages = 0;
        } else if (is_warm && time - start >= seconds) {
            printf("{\"messages\": %llu, \"seconds\": %.6f, \"cpu\": %.6f}\n",
                   (unsigned long long)messages, time - start, cpu() - cpu_start);
            return 0;
        }
    }
}
