# Contiguous byte buffers borrowed from a per-worker pool.
#
#   bytes            start            end               capacity
#     | headroom/sent |  unread bytes  |  free space       |
#
# A buffer owns no memory while it is empty: the first write borrows a block of
# the smallest fitting size class, the last read gives it back. So an idle
# connection costs its struct and nothing else.
#
# Contiguous and not circular on purpose: frames are encoded in place, heads are
# parsed in place and everything leaves in one send(), all of which need one span
# (docs/adr/0002). A reserve that would have to grow first moves the unread bytes
# to the front.
#
# `headroom` bytes before `start` are kept free for a header that is written
# later, when the length is known: a WebSocket frame header around a whole flush.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.check cimport CHECK


cdef enum:
    BUFFER_CLASS_COUNT = 11               # 4 KiB, 8 KiB, ... 4 MiB
    BUFFER_CLASS_SIZE_MIN = 4096          # bytes; a page
    BUFFER_POOL_KEEP_BYTES = 16 << 20     # free memory a pool holds on to
    BUFFER_HEADROOM_MAX = 16              # >= the largest WebSocket header, 14


cdef struct BufferPool:
    void *free_blocks[BUFFER_CLASS_COUNT]
    # Gauges: relaxed, so that other threads may look.
    uint64_t bytes_lent                   # in buffers now
    uint64_t bytes_kept                   # free, waiting for reuse
    uint64_t bytes_lent_max               # high-water mark
    uint32_t blocks_lent[BUFFER_CLASS_COUNT + 1]  # the last: larger than any class


cdef struct Buffer:
    BufferPool *pool
    uint8_t *bytes
    uint32_t capacity                     # bytes; 0: owns nothing
    uint32_t start
    uint32_t end
    uint32_t headroom
    uint32_t first_size                   # least room of the block an empty buffer borrows


cdef void buffer_pool_init(BufferPool *pool) noexcept nogil
cdef void buffer_pool_free(BufferPool *pool) noexcept nogil
cdef void *buffer_pool_take(BufferPool *pool, uint32_t size, uint32_t *capacity) noexcept nogil
cdef void buffer_pool_give(BufferPool *pool, void *block, uint32_t capacity) noexcept nogil

cdef void buffer_init(Buffer *buffer, BufferPool *pool, uint32_t headroom) noexcept nogil
cdef void buffer_free(Buffer *buffer) noexcept nogil             # idempotent; drops unread bytes
cdef int buffer_grow(Buffer *buffer, uint32_t size) noexcept nogil

cdef inline uint32_t buffer_size(const Buffer *buffer) noexcept nogil:
    return buffer.end - buffer.start

cdef inline uint8_t *buffer_head(Buffer *buffer) noexcept nogil:
    return buffer.bytes + buffer.start

cdef inline uint8_t *buffer_reserve(Buffer *buffer, uint32_t size) noexcept nogil:
    # Where `size` bytes may be written before buffer_commit(); NULL: no memory.
    if buffer.capacity - buffer.end < size or buffer.capacity == 0:
        if buffer_grow(buffer, size) < 0:
            return NULL
    return buffer.bytes + buffer.end

cdef inline void buffer_commit(Buffer *buffer, uint32_t size) noexcept nogil:
    CHECK(size <= buffer.capacity - buffer.end)
    buffer.end += size

cdef inline int buffer_append(Buffer *buffer, const void *source, uint32_t size) noexcept nogil:
    # 0 or -ENOMEM.
    cdef uint8_t *target
    if size == 0:
        return 0
    target = buffer_reserve(buffer, size)
    if target == NULL:
        return -12
    memcpy(target, source, size)
    buffer.end += size
    return 0

cdef inline void buffer_consume(Buffer *buffer, uint32_t size) noexcept nogil:
    # Drop `size` unread bytes from the front; the memory goes back when none is left.
    CHECK(size <= buffer.end - buffer.start)
    buffer.start += size
    if buffer.start == buffer.end:
        buffer_free(buffer)
