# What a search has to look at of each record of a batch, in 20 bytes: most records are passed
# over without their 150 bytes of text being read from a disk. Stores keep arrays of LogKey
# beside their batches; like LogHeader it is a disk format (forward/log.pxd, LOG_FORMAT).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    int __builtin_clzll(unsigned long long value) nogil


cdef struct LogKey:
    uint32_t offset                       # of the record in its batch
    uint32_t device                       # low bits
    uint32_t route
    uint32_t request_id                   # text_hash()
    uint16_t status                       # of the LogState << 12
    uint16_t duration                     # duration_bucket(total_us)

# How a request ended, or that it has not.
cdef enum LogState:
    STATE_OPEN = 0
    STATE_CLOSED
    STATE_UNAVAILABLE                     # the proxy answered: no device, no target
    STATE_TIMEOUT                         # somebody was too slow
    STATE_ABORTED                         # cut off before its end
    STATE_COUNT

cdef enum:
    DURATION_BUCKETS = 976

# Durations by their logarithm: below 32 us exactly, then sixteen to a power of two, so that
# a bucket is 6 % wide.
cdef inline uint16_t duration_bucket(uint64_t us) noexcept nogil:
    cdef uint32_t power
    if us < 32:
        return <uint16_t>us
    power = 59 - <uint32_t>__builtin_clzll(us)      # us >> power is in 16..31
    return <uint16_t>(16 + power * 16 + ((us >> power) & 15))

cdef inline uint64_t bucket_start(uint32_t bucket) noexcept nogil:
    if bucket < 32:
        return bucket
    return <uint64_t>(16 + (bucket & 15)) << ((bucket >> 4) - 1)

# FNV-1a with murmur's last mixing: ids that count up spread over all bits.
cdef inline uint32_t text_hash(const uint8_t *text, uint32_t size) noexcept nogil:
    cdef uint32_t index, mixed = 2166136261
    for index in range(size):
        mixed = (mixed ^ text[index]) * 16777619
    mixed = (mixed ^ (mixed >> 16)) * <uint32_t>0x85EBCA6B
    mixed = (mixed ^ (mixed >> 13)) * <uint32_t>0xC2B2AE35
    return mixed ^ (mixed >> 16)

cdef LogState log_state(
    uint32_t status, uint32_t flags, const uint8_t *reason, uint32_t reason_size
) noexcept nogil
