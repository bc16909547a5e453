# Masking and UTF-8 checking with vectors, chosen at run time. See simd.h.

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "simd.h" nogil:
    bint simd_has_avx2() noexcept
    # XOR in place from key[phase]; the next phase.
    uint32_t simd_mask(
        uint8_t *bytes, size_t size, const uint8_t *key, uint32_t phase
    ) noexcept
    uint32_t simd_mask_with(
        bint wide, uint8_t *bytes, size_t size, const uint8_t *key, uint32_t phase
    ) noexcept
    # True: valid so far; *state starts at 0 and is 0 again where a text may end.
    bint simd_utf8(uint32_t *state, const uint8_t *bytes, size_t size) noexcept
