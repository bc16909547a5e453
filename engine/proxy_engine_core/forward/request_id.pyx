# See request_id.pxd.

from libc.stdint cimport uint8_t, uint64_t

from proxy_engine_core.forward.transaction cimport ServerRole

cdef const char *HEX = "0123456789abcdef"


cdef void request_id_write(ServerRole *role, uint8_t *target) noexcept nogil:
    # 128 bits: a random prefix of this worker and a counter, scattered.
    cdef uint64_t halves[2]
    cdef int index
    role.request_id_next += 1
    halves[0] = role.request_id_prefix
    halves[1] = role.request_id_next * <uint64_t>0x9E3779B97F4A7C15
    for index in range(REQUEST_ID_SIZE):
        target[index] = HEX[(halves[index >> 4] >> (60 - 4 * (index & 15))) & 15]
