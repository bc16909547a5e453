# See spsc.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from proxy_engine_core.atomic cimport atomic_load_acquire, atomic_store_release
from proxy_engine_core.check cimport CHECK

cdef enum:
    SKIP_MARK = 0xFFFFFFFF    # a "size": the rest up to the wrap holds nothing


cdef inline uint64_t record_room(uint32_t size) noexcept nogil:
    return (<uint64_t>size + 4 + 7) & ~<uint64_t>7


cdef int spsc_init(SpscRing *ring, uint64_t capacity) noexcept nogil:
    CHECK((capacity & (capacity - 1)) == 0)
    memset(ring, 0, sizeof(SpscRing))
    ring.bytes = <uint8_t *>malloc(capacity)
    if ring.bytes == NULL:
        return -ENOMEM
    ring.capacity = capacity
    return 0


cdef void spsc_free(SpscRing *ring) noexcept nogil:
    free(ring.bytes)
    ring.bytes = NULL
    ring.capacity = 0


cdef uint8_t *spsc_reserve(SpscRing *ring, uint32_t size) noexcept nogil:
    cdef uint64_t room = record_room(size)
    cdef uint64_t tail = ring.tail
    cdef uint64_t head = atomic_load_acquire(&ring.head)
    cdef uint64_t offset, to_wrap, needed
    cdef uint32_t mark = SKIP_MARK
    if head == tail:
        ring.base = tail
    offset = (tail - ring.base) & (ring.capacity - 1)
    to_wrap = ring.capacity - offset
    needed = room if room <= to_wrap else room + to_wrap
    if ring.capacity - (tail - head) < needed:
        return NULL
    if room > to_wrap:
        memcpy(ring.bytes + offset, &mark, 4)
        tail += to_wrap
        offset = 0
    memcpy(ring.bytes + offset, &size, 4)
    ring.tail_reserved = tail + room
    return ring.bytes + offset + 4


cdef void spsc_publish(SpscRing *ring) noexcept nogil:
    atomic_store_release(&ring.tail, ring.tail_reserved)


cdef const uint8_t *spsc_peek(SpscRing *ring, uint32_t *size) noexcept nogil:
    cdef uint64_t offset
    while ring.head != atomic_load_acquire(&ring.tail):
        offset = (ring.head - ring.base) & (ring.capacity - 1)
        memcpy(size, ring.bytes + offset, 4)
        if size[0] != SKIP_MARK:
            return ring.bytes + offset + 4
        atomic_store_release(&ring.head, ring.head + ring.capacity - offset)
    return NULL


cdef void spsc_pop(SpscRing *ring, uint32_t size) noexcept nogil:
    atomic_store_release(&ring.head, ring.head + record_room(size))


cdef uint64_t spsc_used(SpscRing *ring) noexcept nogil:
    return atomic_load_acquire(&ring.tail) - atomic_load_acquire(&ring.head)
