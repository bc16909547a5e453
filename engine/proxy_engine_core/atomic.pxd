from libc.stdint cimport uint64_t


cdef extern from "atomic.h" nogil:
    uint64_t atomic_load_acquire(const uint64_t *value)
    void atomic_store_release(uint64_t *value, uint64_t to)
    uint64_t atomic_load_relaxed(const uint64_t *value)
    void counter_add(uint64_t *value, uint64_t amount)
    void counter_add_release(uint64_t *value, uint64_t amount)
    void gauge_set(uint64_t *value, uint64_t to)
    uint64_t atomic_add(uint64_t *value, uint64_t amount)
    uint64_t atomic_subtract(uint64_t *value, uint64_t amount)
    bint atomic_compare_exchange(uint64_t *value, uint64_t *expected, uint64_t to)
    int atomic_load_flag(const int *flag)
    int atomic_exchange_flag(int *flag, int to)
    void atomic_store_flag(int *flag, int to)
    void atomic_stack_push(void **top, void *node)
    void *atomic_stack_take_all(void **top)
    bint atomic_stack_is_empty(void **top)
    void *atomic_exchange_pointer(void **place, void *to)
    void *atomic_load_pointer(void *const *place)
    void atomic_store_pointer(void **place, void *to)
