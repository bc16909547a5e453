/* The protocols of atomic.h under ThreadSanitizer: mailbox and SPSC ring.
 *
 * Spelled out here once more, line by line as in io/mailbox.pyx and spsc.pyx, on the same
 * primitives: in a process without Python the sanitizer sees everything, and far more
 * happens in a second. A change there belongs here too.
 *
 *   gcc -std=gnu11 -O1 -g -fsanitize=thread -pthread -Iengine/proxy_engine_core \
 *       tests/native/tsan_mailbox.c -o build/tsan_mailbox && build/tsan_mailbox
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "atomic.h"

enum { WRITERS = 4, MESSAGES = 20000, RECORDS = 100000, CAPACITY = 4096 };

#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

/* --- mailbox ------------------------------------------------------------- */

typedef struct Node {
    struct Node *next;
    uint32_t writer;
    uint32_t number;
} Node;

static struct {
    void *top;
    int armed;
    int event_fd;
} mailbox = {NULL, 1, -1};

static void *write_messages(void *argument)
{
    uint32_t writer = (uint32_t)(uintptr_t)argument;
    uint64_t one = 1;
    for (uint32_t number = 0; number < MESSAGES; number++) {
        Node *node = malloc(sizeof(Node));
        REQUIRE(node != NULL);
        node->writer = writer;
        node->number = number;
        atomic_stack_push(&mailbox.top, node);
        if (atomic_exchange_flag(&mailbox.armed, 0))
            REQUIRE(write(mailbox.event_fd, &one, sizeof(one)) == sizeof(one));
    }
    return NULL;
}

static Node *take(void)
{
    Node *node = atomic_stack_take_all(&mailbox.top);
    Node *oldest = NULL;
    while (node != NULL) {
        Node *following = node->next;
        node->next = oldest;
        oldest = node;
        node = following;
    }
    return oldest;
}

static void test_mailbox(void)
{
    pthread_t threads[WRITERS];
    uint32_t following[WRITERS] = {0};
    uint32_t left = WRITERS * MESSAGES;
    uint64_t count;
    mailbox.event_fd = eventfd(0, EFD_NONBLOCK);
    REQUIRE(mailbox.event_fd >= 0);
    for (uintptr_t writer = 0; writer < WRITERS; writer++)
        REQUIRE(!pthread_create(&threads[writer], NULL, write_messages, (void *)writer));
    while (left != 0) {
        for (Node *node = take(); node != NULL;) {
            Node *old = node;
            REQUIRE(node->number == following[node->writer]++);
            left--;
            node = node->next;
            free(old);
        }
        if (left == 0)
            break;
        atomic_store_flag(&mailbox.armed, 1);
        if (atomic_stack_is_empty(&mailbox.top)) {
            /* Level-triggered here, so it must be read; the wake-up is what counts. */
            struct pollfd waiting = {mailbox.event_fd, POLLIN, 0};
            REQUIRE(poll(&waiting, 1, 10000) == 1);
            REQUIRE(read(mailbox.event_fd, &count, sizeof(count)) == sizeof(count));
        }
    }
    for (int writer = 0; writer < WRITERS; writer++)
        pthread_join(threads[writer], NULL);
    close(mailbox.event_fd);
}

/* --- SPSC ring ------------------------------------------------------------ */

static struct {
    uint8_t bytes[CAPACITY];
    uint64_t head;
    uint64_t tail;
    uint64_t base;
} ring;

static const uint32_t SKIP_MARK = 0xFFFFFFFF;

static uint64_t record_room(uint32_t size)
{
    return ((uint64_t)size + 4 + 7) & ~(uint64_t)7;
}

static void *write_records(void *unused)
{
    for (uint32_t number = 0; number < RECORDS;) {
        uint32_t size = 4 + number % 301;
        uint64_t room = record_room(size);
        uint64_t tail = ring.tail;
        uint64_t head = atomic_load_acquire(&ring.head);
        if (head == tail)
            ring.base = tail;
        uint64_t offset = (tail - ring.base) & (CAPACITY - 1);
        uint64_t to_wrap = CAPACITY - offset;
        uint64_t needed = room <= to_wrap ? room : room + to_wrap;
        if (CAPACITY - (tail - head) < needed)
            continue;
        if (room > to_wrap) {
            memcpy(ring.bytes + offset, &SKIP_MARK, 4);
            tail += to_wrap;
            offset = 0;
        }
        memcpy(ring.bytes + offset, &size, 4);
        memset(ring.bytes + offset + 4, (int)(number & 0xFF), size);
        memcpy(ring.bytes + offset + 4, &number, 4);
        atomic_store_release(&ring.tail, tail + room);
        number++;
    }
    return unused;
}

static void test_ring(void)
{
    pthread_t thread;
    REQUIRE(!pthread_create(&thread, NULL, write_records, NULL));
    for (uint32_t number = 0; number < RECORDS;) {
        uint32_t size, found;
        if (ring.head == atomic_load_acquire(&ring.tail))
            continue;
        uint64_t offset = (ring.head - ring.base) & (CAPACITY - 1);
        memcpy(&size, ring.bytes + offset, 4);
        if (size == SKIP_MARK) {
            atomic_store_release(&ring.head, ring.head + CAPACITY - offset);
            continue;
        }
        memcpy(&found, ring.bytes + offset + 4, 4);
        REQUIRE(found == number && size == 4 + number % 301);
        REQUIRE(size == 4 || ring.bytes[offset + 4 + size - 1] == (number & 0xFF));
        atomic_store_release(&ring.head, ring.head + record_room(size));
        number++;
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    test_mailbox();
    test_ring();
    puts("mailbox and ring: no race, nothing lost");
    return 0;
}
