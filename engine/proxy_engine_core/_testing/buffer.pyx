# Buffers and their pool for pytest.

cimport cython

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport *


CLASS_SIZE_MIN = BUFFER_CLASS_SIZE_MIN
CLASS_SIZE_MAX = BUFFER_CLASS_SIZE_MIN << (BUFFER_CLASS_COUNT - 1)
POOL_KEEP_BYTES = BUFFER_POOL_KEEP_BYTES
HEADROOM_MAX = BUFFER_HEADROOM_MAX


@cython.final
cdef class PoolHandle:
    cdef BufferPool pool

    def __cinit__(self):
        buffer_pool_init(&self.pool)

    def __dealloc__(self):
        buffer_pool_free(&self.pool)

    def state(self):
        return {
            "bytes_lent": self.pool.bytes_lent,
            "bytes_kept": self.pool.bytes_kept,
            "bytes_lent_max": self.pool.bytes_lent_max,
        }

    def free(self):
        buffer_pool_free(&self.pool)


@cython.final
cdef class BufferHandle:
    cdef PoolHandle owner
    cdef Buffer buffer

    def __cinit__(self, PoolHandle pool, uint32_t headroom=0):
        self.owner = pool
        buffer_init(&self.buffer, &pool.pool, headroom)

    def __dealloc__(self):
        if self.owner is not None:
            buffer_free(&self.buffer)

    def append(self, bytes data):
        return buffer_append(&self.buffer, <char *>data, len(data))

    def write_in_place(self, bytes data, uint32_t reserved):
        """Reserve `reserved` bytes and commit only `data`."""
        cdef uint8_t *target
        if len(data) > reserved:
            raise ValueError("data exceeds the reserved size")
        target = buffer_reserve(&self.buffer, reserved)
        if target == NULL:
            return -12
        memcpy(target, <char *>data, len(data))
        buffer_commit(&self.buffer, len(data))
        return 0

    def prepend(self, bytes data):
        """Write `data` into the headroom, as a late frame header is."""
        if <uint32_t>len(data) > self.buffer.headroom or self.buffer.capacity == 0:
            raise ValueError("no headroom for it")
        self.buffer.start -= len(data)
        memcpy(buffer_head(&self.buffer), <char *>data, len(data))

    def consume(self, uint32_t size):
        if size > buffer_size(&self.buffer):
            raise ValueError("more than there is")
        data = (<char *>buffer_head(&self.buffer))[:size] if size else b""
        buffer_consume(&self.buffer, size)
        return data

    def grow(self, uint32_t size):
        return buffer_grow(&self.buffer, size)

    def expect(self, uint32_t size):
        self.buffer.first_size = size

    def free(self):
        buffer_free(&self.buffer)

    def peek(self):
        cdef uint32_t size = buffer_size(&self.buffer)
        return (<char *>buffer_head(&self.buffer))[:size] if size else b""

    def state(self):
        return {
            "capacity": self.buffer.capacity,
            "start": self.buffer.start,
            "end": self.buffer.end,
        }
