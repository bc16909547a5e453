# A single-producer, single-consumer byte ring of records: a worker writes, Python
# reads. Records are u32 size + bytes, padded to 8, never split across the wrap: a
# record that would is preceded by a skip mark.
#
# A ring that has been emptied is written from its start again, so of its memory only as much
# is touched, and in caches, as ever waited in it. The producer moves `base` only while there is
# nothing that the consumer could look for by it, and publishes it with the next record.
#
# Full: spsc_push refuses. Control events may not be lost, so their producer keeps
# refused ones in an overflow list (worker.pyx); log records are dropped and counted.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct SpscRing:
    uint8_t *bytes
    uint64_t capacity         # a power of two
    uint64_t head             # free-running read index; written by the consumer
    uint64_t tail             # free-running write index; written by the producer
    uint64_t tail_reserved    # producer only: end of the record being written
    uint64_t base             # the index that is at bytes[0]; written by the producer

cdef int spsc_init(SpscRing *ring, uint64_t capacity) noexcept nogil   # 0, -ENOMEM
cdef void spsc_free(SpscRing *ring) noexcept nogil                     # idempotent
# Producer: room for one record of `size` bytes, or NULL: full. Publish makes it visible.
cdef uint8_t *spsc_reserve(SpscRing *ring, uint32_t size) noexcept nogil
cdef void spsc_publish(SpscRing *ring) noexcept nogil
# Consumer: the oldest record and its size, or NULL: empty. Pop releases it.
cdef const uint8_t *spsc_peek(SpscRing *ring, uint32_t *size) noexcept nogil
cdef void spsc_pop(SpscRing *ring, uint32_t size) noexcept nogil
cdef uint64_t spsc_used(SpscRing *ring) noexcept nogil
