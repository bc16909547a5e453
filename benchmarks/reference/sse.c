/* Server-sent events, from one to many, and how late they come.
 *
 *   sse origin PORT INTERVAL_US SIZE              an event to every connection, each interval
 *   sse client PORT HOST CONNECTIONS SECONDS      listens on so many, prints JSON
 *
 * An event carries the time of its sending (CLOCK_MONOTONIC, 16 hexadecimal digits of ns), so the
 * client, on the same machine, knows how long it was under way. The origin says nothing of a
 * length: its response is chunked, a chunk for each event. A tenth of the time warms up.
 */

#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>

#include "loopback.h"

enum { EVENTS_MAX = 512, PEERS_MAX = 16384, PADDING_MAX = 4096, LATENCIES_MAX = 1 << 24 };

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* --- origin --- */

typedef struct {
    int fd;
    int matched; /* of the head's end */
    bool is_listening;
} Peer;

static Peer *peers[PEERS_MAX];
static int peer_count;

static void drop(Peer *peer) {
    for (int index = 0; index < peer_count; index++)
        if (peers[index] == peer) peers[index] = peers[--peer_count];
    close(peer->fd);
    peer->fd = -1; /* leaked: this batch of events may still name it */
}

static void hear(Peer *peer) {
    static const char END[] = "\r\n\r\n";
    static const char HEAD[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    char text[4096];
    if (peer->fd < 0) return;
    ssize_t got = recv(peer->fd, text, sizeof text, 0);
    if (got <= 0) {
        drop(peer);
        return;
    }
    for (ssize_t at = 0; at < got && peer->matched < 4; at++)
        peer->matched = text[at] == END[peer->matched] ? peer->matched + 1 : text[at] == '\r';
    if (peer->matched < 4 || peer->is_listening) return;
    peer->is_listening = true;
    if (send(peer->fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL) < 0) drop(peer);
}

static void origin(int port, long interval_us, int size) {
    struct epoll_event events[EVENTS_MAX], event = {.events = EPOLLIN, .data.u64 = 0};
    static char padding[PADDING_MAX], text[PADDING_MAX + 64];
    memset(padding, 'x', sizeof padding);
    int listener = listen_on(port), epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct itimerspec every = {{interval_us / 1000000, interval_us % 1000000 * 1000}, {0, 1000}};
    timerfd_settime(timer, 0, &every, NULL);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    event.data.u64 = 1;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &event);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int index = 0; index < ready; index++) {
            if (events[index].data.u64 > 1) {
                hear(events[index].data.ptr);
            } else if (events[index].data.u64 == 1) {
                uint64_t missed;
                if (read(timer, &missed, sizeof missed) < 0) continue;
                /* "data: " + 16 digits + padding + two newlines */
                int body = 6 + 16 + size + 2;
                for (int each = peer_count - 1; each >= 0; each--) {
                    if (!peers[each]->is_listening) continue;
                    int length = snprintf(text, sizeof text, "%x\r\ndata: %016llx%.*s\n\n\r\n", body,
                                          (unsigned long long)now_ns(), size, padding);
                    if (send(peers[each]->fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT) != length)
                        drop(peers[each]); /* too slow for events */
                }
            } else {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0 || peer_count == PEERS_MAX) continue;
                Peer *peer = calloc(1, sizeof *peer);
                if (!peer) fail("calloc");
                no_delay(fd);
                peer->fd = fd;
                peers[peer_count++] = peer;
                event.data.ptr = peer;
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}

/* --- client --- */

typedef struct {
    int fd;
    int matched; /* of "data: " */
    int digits;  /* of the time that follows */
    uint64_t time;
} Listener;

static uint32_t latencies[LATENCIES_MAX]; /* us */
static uint64_t latency_count;
static bool is_warm;

static void take(Listener *listener, const char *text, ssize_t size, uint64_t now) {
    static const char MARK[] = "data: ";
    for (ssize_t at = 0; at < size; at++) {
        char byte = text[at];
        if (listener->matched < 6) {
            listener->matched = byte == MARK[listener->matched] ? listener->matched + 1 : byte == 'd';
            continue;
        }
        listener->time = listener->time << 4 | (byte <= '9' ? byte - '0' : byte - 'a' + 10);
        if (++listener->digits < 16) continue;
        if (is_warm && latency_count < LATENCIES_MAX)
            latencies[latency_count++] = (now - listener->time) / 1000;
        listener->matched = listener->digits = 0;
        listener->time = 0;
    }
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int client(int port, const char *host, int connections, double seconds) {
    struct epoll_event events[EVENTS_MAX];
    static char text[64 << 10];
    Listener *listeners = calloc(connections, sizeof *listeners);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int size = snprintf(text, sizeof text, "GET /events HTTP/1.1\r\nHost: %s\r\n\r\n", host);
    for (int index = 0; index < connections; index++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listeners[index]};
        listeners[index].fd = connect_to(port);
        if (send(listeners[index].fd, text, size, MSG_NOSIGNAL) != size) fail("send");
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listeners[index].fd, &event);
    }
    uint64_t start = now_ns() + (uint64_t)(seconds * 1e8);
    double cpu_start = cpu();
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, 5000);
        if (ready == 0) fail("nothing came for 5 s");
        uint64_t now = now_ns();
        for (int index = 0; index < ready; index++) {
            Listener *listener = events[index].data.ptr;
            ssize_t got = recv(listener->fd, text, sizeof text, 0);
            if (got <= 0) {
                fprintf(stderr, "a stream of events ended\n");
                return 1;
            }
            take(listener, text, got, now);
        }
        if (!is_warm && now >= start) {
            is_warm = true;
            start = now;
            cpu_start = cpu();
        } else if (is_warm && now - start >= (uint64_t)(seconds * 1e9)) {
            break;
        }
    }
    if (!latency_count) fail("no event");
    double took = (now_ns() - start) / 1e9;
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"events\": %llu, \"seconds\": %.6f, \"cpu\": %.6f, \"p50\": %u, \"p99\": %u}\n",
           (unsigned long long)latency_count, took, cpu() - cpu_start,
           latencies[latency_count / 2], latencies[latency_count - 1 - latency_count / 100]);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 5 && !strcmp(arguments[1], "origin"))
        origin(atoi(arguments[2]), atol(arguments[3]), atoi(arguments[4]));
    if (count == 6 && !strcmp(arguments[1], "client"))
        return client(atoi(arguments[2]), arguments[3], atoi(arguments[4]), atof(arguments[5]));
    fprintf(stderr, "usage: sse origin PORT INTERVAL_US SIZE | client PORT HOST CONNECTIONS SECONDS\n");
    return 2;
}
