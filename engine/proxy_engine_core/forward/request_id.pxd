# Names for what visitors ask, as our own answers, X-Request-Id and the request log have them.

from libc.stdint cimport uint8_t

from proxy_engine_core.forward.transaction cimport ServerRole


cdef enum:
    REQUEST_ID_SIZE = 32                  # hexadecimal digits

cdef void request_id_write(ServerRole *role, uint8_t *target) noexcept nogil
