# See secret.pxd.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.io.sys cimport getrandom


cdef bint secret_fill(uint8_t *target, uint32_t size) noexcept nogil:
    return getrandom(target, size, 0) == <ssize_t>size      # whole, up to 256 bytes
