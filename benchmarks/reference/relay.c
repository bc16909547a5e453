/* One hop of the least a relay can be: relay PORT TARGET_PORT [copy|splice]
 *
 * Bytes go from either side to the other as they come; nobody looks at them. One thread,
 * one level-triggered epoll. `copy` reads up to 64 KiB and writes it on; `splice` moves up
 * to 1 MiB through a pipe, so the bytes never enter this process. A side that does not take
 * what is offered stops the reading of the other; an end of file is passed on.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "loopback.h"

enum { EVENTS_MAX = 512, COPY_SIZE = 64 << 10, PIPE_SIZE = 1 << 20 };

typedef struct Side Side;
struct Side {
    Side *peer;
    Side *next_closed;
    int fd;
    int pipe[2];       /* splice: bytes from here on their way to the peer */
    uint8_t *held;     /* copy: bytes from here that the peer did not take */
    size_t held_size;  /* ... in either of the two */
    uint32_t interest; /* what epoll watches */
    bool is_ended;     /* no more comes from here */
    bool is_told;      /* ... and the peer knows */
};

static int epoll_fd, target_port;
static bool is_splicing;
static Side *closed;
static uint8_t scratch[COPY_SIZE];

static void watch(Side *side, int operation, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = side};
    if (operation == EPOLL_CTL_MOD && side->interest == interest) return;
    side->interest = interest;
    if (epoll_ctl(epoll_fd, operation, side->fd, &event) < 0) fail("epoll_ctl");
}

static void close_both(Side *side) {
    if (side->fd < 0) return;
    for (int turn = 0; turn < 2; turn++, side = side->peer) {
        close(side->fd);
        side->fd = -1;
        if (is_splicing) close(side->pipe[0]), close(side->pipe[1]);
        side->next_closed = closed; /* this batch of events may still name it */
        closed = side;
    }
}

/* Hand what `side` holds to its peer; false: the pair is gone. */
static bool push(Side *side) {
    Side *peer = side->peer;
    while (side->held_size) {
        ssize_t moved = is_splicing
            ? splice(side->pipe[0], NULL, peer->fd, NULL, side->held_size,
                     SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            : send(peer->fd, side->held, side->held_size, MSG_NOSIGNAL);
        if (moved < 0 && errno == EAGAIN) break;
        if (moved <= 0) return close_both(side), false;
        side->held_size -= moved;
        if (!is_splicing) memmove(side->held, side->held + moved, side->held_size);
    }
    if (side->is_ended && !side->held_size && !side->is_told) {
        side->is_told = true;
        shutdown(peer->fd, SHUT_WR);
    }
    if (side->is_told && peer->is_told) return close_both(side), false;
    return true;
}

/* Read once from `side` and pass it on; false: the pair is gone. */
static bool pull(Side *side) {
    ssize_t size = is_splicing
        ? splice(side->fd, NULL, side->pipe[1], NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        : recv(side->fd, scratch, COPY_SIZE, 0);
    if (size < 0) {
        if (errno == EAGAIN) return true;
        return close_both(side), false;
    }
    if (size == 0) {
        side->is_ended = true;
        return push(side);
    }
    if (is_splicing) {
        side->held_size += size;
        return push(side);
    }
    ssize_t sent = send(side->peer->fd, scratch, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) sent = 0;
    if (sent < 0) return close_both(side), false;
    if (sent < size) {
        if (!side->held && !(side->held = malloc(COPY_SIZE))) fail("malloc");
        side->held_size = size - sent;
        memcpy(side->held, scratch + sent, side->held_size);
    }
    return true;
}

static void update(Side *side) {
    for (int turn = 0; turn < 2; turn++, side = side->peer) {
        uint32_t interest = side->peer->held_size ? EPOLLOUT : 0;
        if (!side->held_size && !side->is_ended) interest |= EPOLLIN;
        watch(side, EPOLL_CTL_MOD, interest);
    }
}

static void handle(Side *side, uint32_t events) {
    if (side->fd < 0) return;
    if (events & EPOLLOUT && !push(side->peer)) return;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (side->is_ended && events & (EPOLLHUP | EPOLLERR)) {
            close_both(side);
            return;
        }
        if (!side->held_size && !pull(side)) return;
    }
    update(side);
}

static Side *new_side(int fd) {
    Side *side = calloc(1, sizeof *side);
    if (!side) fail("calloc");
    side->fd = fd;
    if (is_splicing) {
        if (pipe2(side->pipe, O_NONBLOCK | O_CLOEXEC) < 0) fail("pipe2");
        fcntl(side->pipe[1], F_SETPIPE_SZ, PIPE_SIZE); /* what the limits allow will do */
    }
    return side;
}

static void accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    no_delay(fd);
    Side *near = new_side(fd), *far = new_side(connect_to(target_port));
    near->peer = far;
    far->peer = near;
    for (Side *side = near;; side = far) {
        fcntl(side->fd, F_SETFL, O_NONBLOCK);
        watch(side, EPOLL_CTL_ADD, EPOLLIN);
        if (side == far) return;
    }
}

int main(int count, char **arguments) {
    struct epoll_event events[EVENTS_MAX], accepting = {.events = EPOLLIN, .data.ptr = NULL};
    if (count < 3) {
        fprintf(stderr, "usage: relay PORT TARGET_PORT [copy|splice]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* splice() has no MSG_NOSIGNAL */
    is_splicing = count > 3 && !strcmp(arguments[3], "splice");
    target_port = atoi(arguments[2]);
    int listener = listen_on(atoi(arguments[1]));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &accepting) < 0) fail("epoll_ctl");
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int index = 0; index < ready; index++) {
            if (events[index].data.ptr) handle(events[index].data.ptr, events[index].events);
            else accept_one(listener);
        }
        while (closed) {
            Side *side = closed;
            closed = side->next_closed;
            free(side->held);
            free(side);
        }
    }
}
