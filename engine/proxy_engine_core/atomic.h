/* The few atomic operations that cross threads, by the ordering they need.
 *
 * MPSC mailbox: many producers push, one worker takes everything (io/mailbox).
 * SPSC ring:    one worker writes, Python reads (spsc).
 * Counters:     one worker writes, anybody reads (relaxed).
 * Totals:       all workers add and subtract (io/crew, quota). */
#ifndef PROXY_ENGINE_ATOMIC_H
#define PROXY_ENGINE_ATOMIC_H

#include <stdint.h>

static inline uint64_t atomic_load_acquire(const uint64_t *value)
{
    return __atomic_load_n(value, __ATOMIC_ACQUIRE);
}

static inline void atomic_store_release(uint64_t *value, uint64_t to)
{
    __atomic_store_n(value, to, __ATOMIC_RELEASE);
}

static inline uint64_t atomic_load_relaxed(const uint64_t *value)
{
    return __atomic_load_n(value, __ATOMIC_RELAXED);
}

/* One writer only: a plain add made visible as one store. gcc makes three instructions of it where
 * x86 has one that does just that: not one step for another writer, but one store for readers. */
static inline void counter_add(uint64_t *value, uint64_t amount)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__("addq %1, %0" : "+m"(*value) : "er"(amount) : "cc");
#else
    __atomic_store_n(value, __atomic_load_n(value, __ATOMIC_RELAXED) + amount,
                     __ATOMIC_RELAXED);
#endif
}

/* The same: who acquires it sees what the writer wrote before. */
static inline void counter_add_release(uint64_t *value, uint64_t amount)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__ volatile("addq %1, %0" : "+m"(*value) : "er"(amount) : "cc", "memory");
#else
    __atomic_store_n(value, __atomic_load_n(value, __ATOMIC_RELAXED) + amount,
                     __ATOMIC_RELEASE);
#endif
}

/* One writer only, likewise. */
static inline void gauge_set(uint64_t *value, uint64_t to)
{
    __atomic_store_n(value, to, __ATOMIC_RELAXED);
}

/* Both return the new value. */
static inline uint64_t atomic_add(uint64_t *value, uint64_t amount)
{
    return __atomic_add_fetch(value, amount, __ATOMIC_SEQ_CST);
}

static inline uint64_t atomic_subtract(uint64_t *value, uint64_t amount)
{
    return __atomic_sub_fetch(value, amount, __ATOMIC_SEQ_CST);
}

/* What was there. */
static inline void *atomic_exchange_pointer(void **place, void *to)
{
    return __atomic_exchange_n(place, to, __ATOMIC_ACQ_REL);
}

/* Who loads it sees what was written before it was stored. */
static inline void *atomic_load_pointer(void *const *place)
{
    return __atomic_load_n(place, __ATOMIC_ACQUIRE);
}

static inline void atomic_store_pointer(void **place, void *to)
{
    __atomic_store_n(place, to, __ATOMIC_RELEASE);
}

/* Set it to `to` if it is `*expected`, which otherwise becomes what it is. */
static inline int atomic_compare_exchange(uint64_t *value, uint64_t *expected, uint64_t to)
{
    return __atomic_compare_exchange_n(value, expected, to, 0, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}

static inline int atomic_load_flag(const int *flag)
{
    return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

static inline int atomic_exchange_flag(int *flag, int to)
{
    return __atomic_exchange_n(flag, to, __ATOMIC_SEQ_CST);
}

static inline void atomic_store_flag(int *flag, int to)
{
    __atomic_store_n(flag, to, __ATOMIC_SEQ_CST);
}

/* Push a node whose first word is its link onto a lock-free stack. */
static inline void atomic_stack_push(void **top, void *node)
{
    void *old = __atomic_load_n(top, __ATOMIC_RELAXED);
    do {
        *(void **)node = old;
    } while (!__atomic_compare_exchange_n(top, &old, node, 1, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
}

static inline void *atomic_stack_take_all(void **top)
{
    return __atomic_exchange_n(top, (void *)0, __ATOMIC_SEQ_CST);
}

static inline int atomic_stack_is_empty(void **top)
{
    return __atomic_load_n(top, __ATOMIC_SEQ_CST) == (void *)0;
}

#endif
