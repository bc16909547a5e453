/* What workers do to each other, under ThreadSanitizer: connections change owners, each
 * worker has a copy of the routes that one writer changes by messages, and draining is
 * counted. The same steps as io/crew.pyx, forward/move.pyx and core.pyx, over atomic.h.
 *
 * Connections are plain memory that only their owner touches: a missing edge of ordering is
 * a data race. What moves by a route must find that route, or a newer one, where it comes. */
#include "atomic.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    WORKERS = 4,
    CONNECTIONS = 64,
    MOVES = 400,     /* of each connection, then it is done */
    ROUTES = 16,
    VERSIONS = 3000, /* changes to each route */
};

#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

enum Kind { ROUTE, MOVE, DRAIN };

typedef struct {
    uint32_t moves;
    uint32_t owner;
    unsigned char content[64];
} Connection;

typedef struct Message {
    struct Message *next;
    enum Kind kind;
    uint64_t version; /* ROUTE: of the change. MOVE: of the sender's table */
    uint64_t changed; /* MOVE: of the route it goes by */
    uint32_t key;
    uint32_t target;
    Connection *connection;
} Message;

typedef struct Worker {
    uint32_t index;
    void *mailbox;
    int armed;
    int event_fd;
    uint64_t version;
    uint32_t routes[ROUTES];
    uint64_t changed[ROUTES]; /* by which version */
    Message *early;
    Connection *owned[CONNECTIONS];
    uint32_t owned_count;
    int is_draining;
    int is_settled;
    uint64_t counters[8]; /* one writer; the main thread reads */
} Worker;

static Worker workers[WORKERS];
static uint64_t unsettled = WORKERS;
static int is_drained;
static uint32_t drained_events;

static Message *message(enum Kind kind)
{
    Message *made = calloc(1, sizeof(Message));
    REQUIRE(made != NULL);
    made->kind = kind;
    return made;
}

static void post(uint32_t index, Message *message)
{
    uint64_t one = 1;
    atomic_stack_push(&workers[index].mailbox, message);
    if (atomic_exchange_flag(&workers[index].armed, 0))
        REQUIRE(write(workers[index].event_fd, &one, sizeof(one)) == sizeof(one));
}

static void adopt(Worker *worker, Message *move)
{
    Connection *connection = move->connection;
    if (worker->is_settled) {
        worker->is_settled = 0;
        atomic_add(&unsettled, 1);
    }
    REQUIRE(atomic_subtract(&unsettled, 1) != 0);
    REQUIRE(worker->changed[move->key] >= move->changed);
    connection->owner = worker->index;
    for (unsigned place = 0; place < sizeof(connection->content); place++)
        REQUIRE(connection->content[place] == (unsigned char)connection->moves);
    worker->owned[worker->owned_count++] = connection;
    counter_add(&worker->counters[0], 1);
}

static int take_move(Worker *worker, Message *move)
{
    if (move->version > worker->version) {
        move->next = worker->early;
        worker->early = move;
        counter_add(&worker->counters[1], 1);
        return 1;
    }
    adopt(worker, move);
    return 0;
}

static void take_route(Worker *worker, const Message *change)
{
    Message *early = worker->early;
    REQUIRE(change->version == worker->version + 1);
    worker->routes[change->key] = change->target;
    worker->changed[change->key] = change->version;
    worker->version = change->version;
    worker->early = NULL;
    while (early != NULL) {
        Message *following = early->next;
        if (!take_move(worker, early))
            free(early);
        early = following;
    }
}

static void take_all(Worker *worker)
{
    Message *node = atomic_stack_take_all(&worker->mailbox);
    Message *oldest = NULL;
    while (node != NULL) {
        Message *following = node->next;
        node->next = oldest;
        oldest = node;
        node = following;
    }
    while (oldest != NULL) {
        Message *following = oldest->next;
        int kept = 0;
        if (oldest->kind == ROUTE)
            take_route(worker, oldest);
        else if (oldest->kind == MOVE)
            kept = take_move(worker, oldest);
        else
            worker->is_draining = 1;
        if (!kept)
            free(oldest);
        oldest = following;
    }
}

/* Every connection asks for a route and goes where it leads. */
static void run_owned(Worker *worker)
{
    uint32_t count = worker->owned_count;
    worker->owned_count = 0;
    for (uint32_t place = 0; place < count; place++) {
        Connection *connection = worker->owned[place];
        uint32_t key = connection->moves % ROUTES;
        uint32_t target = worker->routes[key];
        REQUIRE(connection->owner == worker->index);
        if (connection->moves == MOVES)
            continue; /* done: it stays with us and is in flight no more */
        connection->moves++;
        for (unsigned byte = 0; byte < sizeof(connection->content); byte++)
            connection->content[byte] = (unsigned char)connection->moves;
        if (target == worker->index) {
            worker->owned[worker->owned_count++] = connection;
            continue;
        }
        Message *move = message(MOVE);
        move->version = worker->version;
        move->key = key;
        move->changed = worker->changed[key];
        move->connection = connection;
        atomic_add(&unsettled, 1);
        post(target, move);
    }
}

static void settle(Worker *worker)
{
    int is_idle = worker->owned_count == 0;
    int is_over = 0;
    if (is_idle && !worker->is_settled) {
        worker->is_settled = 1;
        is_over = atomic_subtract(&unsettled, 1) == 0;
    } else if (!is_idle && worker->is_settled) {
        worker->is_settled = 0;
        atomic_add(&unsettled, 1);
    }
    if (is_over && !atomic_exchange_flag(&is_drained, 1))
        drained_events++; /* plain: only one thread ever gets here */
}

static void *run(void *argument)
{
    Worker *worker = argument;
    uint64_t count;
    while (!atomic_load_flag(&is_drained)) {
        take_all(worker);
        run_owned(worker);
        if (worker->is_draining)
            settle(worker);
        if (worker->owned_count)
            continue;
        atomic_store_flag(&worker->armed, 1);
        if (atomic_stack_is_empty(&worker->mailbox)) {
            struct pollfd waiting = {worker->event_fd, POLLIN, 0};
            if (poll(&waiting, 1, 10) == 1)
                REQUIRE(read(worker->event_fd, &count, sizeof(count)) == sizeof(count));
        }
    }
    return NULL;
}

/* The single writer of all tables: one change after the other, each to all workers. */
static void change_routes(void)
{
    uint64_t version = 0;
    for (uint32_t round = 0; round < VERSIONS; round++) {
        version++;
        for (uint32_t index = 0; index < WORKERS; index++) {
            Message *change = message(ROUTE);
            change->version = version;
            change->key = (uint32_t)(version % ROUTES);
            change->target = (uint32_t)((version * 7 + 3) % WORKERS);
            post(index, change);
            if (round % 64 == 0)
                usleep(50); /* let visitors overtake the change */
        }
    }
}

int main(void)
{
    static Connection connections[CONNECTIONS];
    pthread_t threads[WORKERS];
    uint64_t arrived = 0, held = 0;
    for (uint32_t index = 0; index < WORKERS; index++) {
        Worker *worker = &workers[index];
        worker->index = index;
        worker->armed = 1;
        worker->event_fd = eventfd(0, EFD_NONBLOCK);
        REQUIRE(worker->event_fd >= 0);
        for (uint32_t key = 0; key < ROUTES; key++)
            worker->routes[key] = key % WORKERS;
    }
    for (uint32_t place = 0; place < CONNECTIONS; place++) {
        Worker *worker = &workers[place % WORKERS];
        connections[place].owner = worker->index;
        worker->owned[worker->owned_count++] = &connections[place];
    }
    for (uint32_t index = 0; index < WORKERS; index++)
        REQUIRE(!pthread_create(&threads[index], NULL, run, &workers[index]));
    change_routes();
    for (uint32_t index = 0; index < WORKERS; index++)
        post(index, message(DRAIN));
    while (!atomic_load_flag(&is_drained)) {
        for (uint32_t index = 0; index < WORKERS; index++)
            (void)atomic_load_relaxed(&workers[index].counters[0]);
        usleep(1000);
    }
    for (uint32_t index = 0; index < WORKERS; index++) {
        pthread_join(threads[index], NULL);
        arrived += workers[index].counters[0];
        held += workers[index].counters[1];
        REQUIRE(workers[index].early == NULL && workers[index].mailbox == NULL);
        close(workers[index].event_fd);
    }
    /* Drained, told once, and nothing was left between two workers. */
    REQUIRE(drained_events == 1 && unsettled == 0);
    for (uint32_t place = 0; place < CONNECTIONS; place++)
        REQUIRE(connections[place].moves == MOVES);
    printf("workers: %lu moves, %lu ahead of their routes: no race, nothing lost\n",
           (unsigned long)arrived, (unsigned long)held);
    return 0;
}
