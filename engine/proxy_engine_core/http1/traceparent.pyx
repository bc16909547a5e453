# See traceparent.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

cdef const char *HEX = "0123456789abcdef"

cdef enum:
    ID_START = 3
    PARENT_START = 36
    FLAGS_START = 53


cdef inline int digit_value(uint8_t digit) noexcept nogil:
    """Of a lower case hexadecimal digit; -1: it is none."""
    if c"0" <= digit <= c"9":
        return digit - c"0"
    if c"a" <= digit <= c"f":
        return digit - c"a" + 10
    return -1


cdef bint read_hex(const uint8_t *source, uint8_t *target, uint32_t size) noexcept nogil:
    """`size` bytes; False: some are no digits."""
    cdef uint32_t index
    cdef int high, low
    for index in range(size):
        high = digit_value(source[2 * index])
        low = digit_value(source[2 * index + 1])
        if high < 0 or low < 0:
            return False
        target[index] = <uint8_t>(high << 4 | low)
    return True


cdef bint id_is_none(const uint8_t *source, uint32_t size) noexcept nogil:
    cdef uint32_t index
    cdef uint8_t bits = 0
    for index in range(size):
        bits |= source[index]
    return bits == 0


cdef bint traceparent_read(
    const uint8_t *value, uint32_t size, Trace *trace, uint8_t *flags
) noexcept nogil:
    cdef Trace found
    cdef uint8_t version, all_flags
    if size < TRACEPARENT_SIZE or not read_hex(value, &version, 1) or version == 0xFF:
        return False
    if size > TRACEPARENT_SIZE and (version == 0 or value[TRACEPARENT_SIZE] != c"-"):
        return False
    if value[2] != c"-" or value[PARENT_START - 1] != c"-" or value[FLAGS_START - 1] != c"-":
        return False
    if (
        not read_hex(value + ID_START, found.id, TRACE_ID_SIZE)
        or not read_hex(value + PARENT_START, found.parent, SPAN_ID_SIZE)
        or not read_hex(value + FLAGS_START, &all_flags, 1)
        or id_is_none(found.id, TRACE_ID_SIZE) or id_is_none(found.parent, SPAN_ID_SIZE)
    ):
        return False
    memcpy(trace.id, found.id, TRACE_ID_SIZE)
    memcpy(trace.parent, found.parent, SPAN_ID_SIZE)
    flags[0] = all_flags & TRACE_SAMPLED
    return True


cdef uint8_t *put_hex(uint8_t *target, const uint8_t *source, uint32_t size) noexcept nogil:
    cdef uint32_t index
    for index in range(size):
        target[2 * index] = HEX[source[index] >> 4]
        target[2 * index + 1] = HEX[source[index] & 15]
    return target + 2 * size


cdef void traceparent_write(uint8_t *target, const Trace *trace, uint8_t flags) noexcept nogil:
    memcpy(target, b"00-", 3)
    target = put_hex(target + 3, trace.id, TRACE_ID_SIZE)
    target[0] = c"-"
    target = put_hex(target + 1, trace.span, SPAN_ID_SIZE)
    target[0] = c"-"
    put_hex(target + 1, &flags, 1)
