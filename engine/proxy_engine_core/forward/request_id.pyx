# See request_id.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.forward.transaction cimport ServerRole
from proxy_engine_core.wire cimport store_be64


cdef inline void put_hex(uint8_t *target, uint32_t value) noexcept nogil:
    # Eight digits at once: half a byte each, spread over eight bytes.
    cdef uint64_t digits = value
    cdef uint64_t letters
    digits = (digits << 16 | digits) & <uint64_t>0x0000FFFF0000FFFF
    digits = (digits << 8 | digits) & <uint64_t>0x00FF00FF00FF00FF
    digits = (digits << 4 | digits) & <uint64_t>0x0F0F0F0F0F0F0F0F
    letters = ((digits + <uint64_t>0x0606060606060606) >> 4) & <uint64_t>0x0101010101010101
    store_be64(target, digits + <uint64_t>0x3030303030303030 + letters * 39)


cdef void request_id_write(ServerRole *role, uint8_t *target) noexcept nogil:
    # 128 bits: a random prefix of this worker and a counter, scattered.
    cdef uint64_t number
    role.request_id_next += 1
    number = role.request_id_next * <uint64_t>0x9E3779B97F4A7C15
    put_hex(target, <uint32_t>(role.request_id_prefix >> 32))
    put_hex(target + 8, <uint32_t>role.request_id_prefix)
    put_hex(target + 16, <uint32_t>(number >> 32))
    put_hex(target + 24, <uint32_t>number)
