# Big-endian loads and stores, byte by byte: no pointer casts, so no alignment
# or aliasing traps; gcc turns each into one load and a bswap.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef inline uint16_t load_be16(const uint8_t *source) noexcept nogil:
    return <uint16_t>((<uint32_t>source[0] << 8) | source[1])


cdef inline uint32_t load_be32(const uint8_t *source) noexcept nogil:
    return (
        (<uint32_t>source[0] << 24) | (<uint32_t>source[1] << 16)
        | (<uint32_t>source[2] << 8) | source[3]
    )


cdef inline uint64_t load_be64(const uint8_t *source) noexcept nogil:
    return (<uint64_t>load_be32(source) << 32) | load_be32(source + 4)


cdef inline void store_be16(uint8_t *target, uint16_t value) noexcept nogil:
    target[0] = <uint8_t>(value >> 8)
    target[1] = <uint8_t>value


cdef inline void store_be32(uint8_t *target, uint32_t value) noexcept nogil:
    target[0] = <uint8_t>(value >> 24)
    target[1] = <uint8_t>(value >> 16)
    target[2] = <uint8_t>(value >> 8)
    target[3] = <uint8_t>value


cdef inline void store_be64(uint8_t *target, uint64_t value) noexcept nogil:
    store_be32(target, <uint32_t>(value >> 32))
    store_be32(target + 4, <uint32_t>value)
