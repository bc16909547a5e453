/* The target of a ping-pong, and of uploads: echo PORT
 *
 * Answers `Upgrade` with 101 and from there sends back what comes; any other request gets an
 * empty 200 when its body (by Content-Length) has come, which is thrown away. A head must arrive
 * within 8 KiB. One thread, one level-triggered epoll.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <sys/epoll.h>

#include "loopback.h"

enum { EVENTS_MAX = 512, SIZE = 8 << 10, PIECE = 256 << 10 };

typedef struct {
    int fd;
    bool is_echoing;
    size_t size; /* of a head that is not whole yet */
    size_t body; /* bytes of a body still to come */
    char head[SIZE + 1];
} Peer;

static const char SWITCHING[] =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
static const char EMPTY[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

static bool say(Peer *peer, const char *text) {
    return send(peer->fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

static bool take_body(Peer *peer) {
    static char piece[PIECE];
    ssize_t got = recv(peer->fd, piece, peer->body < PIECE ? peer->body : PIECE, 0);
    if (got <= 0) return false;
    peer->body -= got;
    return peer->body || say(peer, EMPTY);
}

static bool answer(Peer *peer) {
    if (peer->body) return take_body(peer);
    ssize_t got = recv(peer->fd, peer->head + peer->size, SIZE - peer->size, 0);
    if (got <= 0) return false;
    if (peer->is_echoing) return send(peer->fd, peer->head, got, MSG_NOSIGNAL) == got;
    peer->size += got;
    peer->head[peer->size] = 0;
    const char *end = strstr(peer->head, "\r\n\r\n");
    if (!end) return peer->size < SIZE;
    const char *length = strcasestr(peer->head, "\ncontent-length:");
    size_t after = peer->head + peer->size - (end + 4);
    peer->size = 0;
    if (length && length < end) {
        peer->body = strtoul(length + 16, NULL, 10) - after;
        if (peer->body) return true;
    }
    peer->is_echoing = strcasestr(peer->head, "\nupgrade:") != NULL;
    return say(peer, peer->is_echoing ? SWITCHING : EMPTY);
}

int main(int count, char **arguments) {
    struct epoll_event events[EVENTS_MAX], event = {.events = EPOLLIN, .data.ptr = NULL};
    if (count != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    int listener = listen_on(atoi(arguments[1]));
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0) fail("epoll_ctl");
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int index = 0; index < ready; index++) {
            Peer *peer = events[index].data.ptr;
            if (peer) {
                if (!answer(peer)) close(peer->fd), free(peer);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (fd < 0) continue;
            if (!(peer = calloc(1, sizeof *peer))) fail("calloc");
            no_delay(fd);
            peer->fd = fd;
            event.data.ptr = peer;
            if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
        }
    }
}
