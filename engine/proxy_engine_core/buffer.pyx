# The pool and the slow paths of buffers. See buffer.pxd for the picture.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from proxy_engine_core.atomic cimport gauge_set
from proxy_engine_core.check cimport CHECK


cdef int size_class(uint32_t size) noexcept nogil:
    # Index of the smallest class that holds `size`; BUFFER_CLASS_COUNT if none does.
    cdef int index = 0
    cdef uint32_t capacity = BUFFER_CLASS_SIZE_MIN
    while capacity < size and index < BUFFER_CLASS_COUNT:
        capacity <<= 1
        index += 1
    return index


cdef void buffer_pool_init(BufferPool *pool) noexcept nogil:
    memset(pool, 0, sizeof(BufferPool))


cdef void buffer_pool_free(BufferPool *pool) noexcept nogil:
    cdef int index
    cdef void *block
    for index in range(BUFFER_CLASS_COUNT):
        while pool.free_blocks[index] != NULL:
            block = pool.free_blocks[index]
            pool.free_blocks[index] = (<void **>block)[0]
            free(block)
    pool.bytes_kept = 0


cdef void *buffer_pool_take(BufferPool *pool, uint32_t size, uint32_t *capacity) noexcept nogil:
    # A block of at least `size` bytes, its true size in *capacity; NULL: no memory.
    cdef int index = size_class(size)
    cdef void *block
    if index == BUFFER_CLASS_COUNT:
        # Beyond the classes: exact pages, never kept.
        capacity[0] = (size + BUFFER_CLASS_SIZE_MIN - 1) & ~<uint32_t>(BUFFER_CLASS_SIZE_MIN - 1)
        if capacity[0] < size:
            return NULL
        block = malloc(capacity[0])
    else:
        capacity[0] = <uint32_t>BUFFER_CLASS_SIZE_MIN << index
        block = pool.free_blocks[index]
        if block != NULL:
            pool.free_blocks[index] = (<void **>block)[0]
            gauge_set(&pool.bytes_kept, pool.bytes_kept - capacity[0])
        else:
            block = malloc(capacity[0])
    if block == NULL:
        return NULL
    pool.blocks_lent[index] += 1
    gauge_set(&pool.bytes_lent, pool.bytes_lent + capacity[0])
    if pool.bytes_lent > pool.bytes_lent_max:
        gauge_set(&pool.bytes_lent_max, pool.bytes_lent)
    return block


cdef void buffer_pool_give(BufferPool *pool, void *block, uint32_t capacity) noexcept nogil:
    cdef int index = size_class(capacity)
    CHECK(pool.bytes_lent >= capacity)
    pool.blocks_lent[index] -= 1
    gauge_set(&pool.bytes_lent, pool.bytes_lent - capacity)
    if index == BUFFER_CLASS_COUNT or pool.bytes_kept + capacity > BUFFER_POOL_KEEP_BYTES:
        free(block)
        return
    (<void **>block)[0] = pool.free_blocks[index]
    pool.free_blocks[index] = block
    gauge_set(&pool.bytes_kept, pool.bytes_kept + capacity)


cdef void buffer_init(Buffer *buffer, BufferPool *pool, uint32_t headroom) noexcept nogil:
    CHECK(headroom <= BUFFER_HEADROOM_MAX)
    memset(buffer, 0, sizeof(Buffer))
    buffer.pool = pool
    buffer.headroom = headroom


cdef void buffer_free(Buffer *buffer) noexcept nogil:
    if buffer.capacity != 0:
        buffer_pool_give(buffer.pool, buffer.bytes, buffer.capacity)
    buffer.bytes = NULL
    buffer.capacity = 0
    buffer.start = 0
    buffer.end = 0


cdef int buffer_grow(Buffer *buffer, uint32_t size) noexcept nogil:
    """Make room for `size` more bytes: compact if that is enough, else a larger block.

    0 or -ENOMEM; on failure the buffer is unchanged.
    """
    cdef uint32_t unread = buffer.end - buffer.start
    cdef uint32_t needed = buffer.headroom + unread + size
    cdef uint32_t capacity, spare
    cdef uint8_t *block
    if needed < size:
        return -ENOMEM
    if buffer.capacity == 0 and needed < buffer.first_size:
        needed = buffer.first_size
    # Compacting costs a copy of the unread bytes: worth it only when they are
    # the smaller half, or a slow reader would make it quadratic.
    if needed <= buffer.capacity and unread <= buffer.capacity // 2:
        memmove(buffer.bytes + buffer.headroom, buffer.bytes + buffer.start, unread)
    else:
        # Half as much again, so that appending without end copies each byte O(1) times.
        spare = unread // 2
        if spare > <uint32_t>0xFFFFFFFF - needed:
            spare = 0
        block = <uint8_t *>buffer_pool_take(buffer.pool, needed + spare, &capacity)
        if block == NULL:
            return -ENOMEM
        if unread:
            memcpy(block + buffer.headroom, buffer.bytes + buffer.start, unread)
        if buffer.capacity != 0:
            buffer_pool_give(buffer.pool, buffer.bytes, buffer.capacity)
        buffer.bytes = block
        buffer.capacity = capacity
    buffer.start = buffer.headroom
    buffer.end = buffer.headroom + unread
    return 0
