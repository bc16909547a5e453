# PROXY protocol v2 (haproxy's proxy-protocol.txt, section 2.2) as the preamble of a
# stream: it names the tunnel in a TLV. HTTP streams serve many visitors, so theirs is a
# LOCAL header without addresses.

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    PREAMBLE_FIXED_SIZE = 16
    PREAMBLE_SIZE_MAX = 16 + 512          # what we accept
    PREAMBLE_TLV_TUNNEL = 0xE0            # first of the range for applications

cdef struct Preamble:
    const uint8_t *tunnel                 # NULL: none named
    uint32_t tunnel_size

# Writes a LOCAL header naming the tunnel (1..63 bytes); returns its size, at most 82.
cdef uint32_t preamble_encode(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size
) noexcept nogil
# Bytes used (> 0); 0: more needed; -1: not a preamble we take.
cdef int preamble_decode(const uint8_t *source, uint32_t size, Preamble *preamble) noexcept nogil
