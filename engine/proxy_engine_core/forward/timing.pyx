# See timing.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.forward.transaction cimport Transaction


cdef uint8_t *put_part(
    uint8_t *target, const char *name, uint32_t size, uint64_t us
) noexcept nogil:
    """The name with its ";dur=", and milliseconds with three decimals."""
    cdef uint8_t digits[24]
    cdef int at = 24
    cdef int index = 0
    memcpy(target, name, size)
    while us or index < 4:
        if index == 3:
            at -= 1
            digits[at] = c"."
        at -= 1
        digits[at] = <uint8_t>(c"0" + us % 10)
        us //= 10
        index += 1
    memcpy(target + size, digits + at, 24 - at)
    return target + size + 24 - at


cdef uint32_t timing_write(uint8_t *target, const Transaction *transaction) noexcept nogil:
    cdef uint8_t *start = target
    cdef uint64_t proxy_us = transaction.sent_us - transaction.started_us
    cdef uint64_t answered_us = transaction.first_byte_us - transaction.sent_us
    memcpy(target, b"Server-Timing: ", 15)
    target = put_part(target + 15, b"proxy;dur=", 10, proxy_us)
    if transaction.link_us:
        target = put_part(target, b", link;dur=", 11, transaction.link_us)
    target = put_part(target, b", target;dur=", 13, answered_us - transaction.link_us)
    memcpy(target, b"\r\n", 2)
    return <uint32_t>(target + 2 - start)
