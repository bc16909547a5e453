# Bytes nobody can guess, and comparing them without telling how far they agree.

from libc.stdint cimport uint8_t, uint32_t


cdef bint secret_fill(uint8_t *target, uint32_t size) noexcept nogil     # False: errno tells

cdef inline bint secret_is_same(
    const uint8_t *one, const uint8_t *other, uint32_t size
) noexcept nogil:
    cdef uint32_t index
    cdef uint8_t difference = 0
    for index in range(size):
        difference |= one[index] ^ other[index]
    return difference == 0
