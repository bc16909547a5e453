# The PROXY protocol (haproxy's proxy-protocol.txt). Version 2 is the preamble of a stream: it
# names the tunnel in a TLV. HTTP streams serve many visitors, so theirs is a LOCAL header
# without addresses; a TCP stream's tells who the visitor is. Both versions are what a load
# balancer puts in front of a visitor's connection.

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    PREAMBLE_FIXED_SIZE = 16
    PREAMBLE_SIZE_MAX = 16 + 512          # what we accept
    PREAMBLE_TLV_TUNNEL = 0xE0            # first of the range for applications
    PREAMBLE_TLV_PROFILE = 0xE1           # one byte; left out where it is 0
    PREAMBLE_HTTP_SIZE_MAX = 16 + 3 + 63 + 4        # what preamble_encode() writes
    PREAMBLE_TCP_SIZE_MAX = 36 + PREAMBLE_HTTP_SIZE_MAX       # ... and preamble_encode_tcp()
    PROXY_LINE_SIZE_MAX = 107             # version 1, with its CRLF

cdef struct Preamble:
    const uint8_t *tunnel                 # NULL: none named
    uint32_t tunnel_size
    bint is_datagram                      # a visitor of UDP
    uint8_t profile                       # io/profile.pxd; 0: none named

# Writes a LOCAL header naming the tunnel (1..63 bytes) and its profile; returns its size, at most
# PREAMBLE_HTTP_SIZE_MAX.
cdef uint32_t preamble_encode(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, uint8_t profile
) noexcept nogil
# Bytes used (> 0); 0: more needed; -1: not a preamble we take.
cdef int preamble_decode(const uint8_t *source, uint32_t size, Preamble *preamble) noexcept nogil

cdef struct ProxyEnd:                     # of a connection
    uint8_t bytes[16]
    uint8_t size                          # 4: IPv4, 16: IPv6; 0: not known
    uint16_t port

cdef struct ProxyHeader:                  # for whom a load balancer speaks
    ProxyEnd visitor                      # version 2; size 0: none, it speaks for itself
    const uint8_t *text                   # version 1: the address as text; NULL: likewise
    uint32_t text_size

# Likewise for a TCP tunnel's stream: PROXY with both ends, or LOCAL if one is not known. Its
# size, at most PREAMBLE_TCP_SIZE_MAX.
cdef uint32_t preamble_encode_tcp(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, uint8_t profile,
    const ProxyEnd *visitor, const ProxyEnd *listener
) noexcept nogil
# ... for a UDP tunnel's stream: always PROXY, with what is known of both ends.
cdef uint32_t preamble_encode_udp(
    uint8_t *target, const uint8_t *tunnel, uint32_t tunnel_size, const ProxyEnd *visitor,
    const ProxyEnd *listener
) noexcept nogil
# What a load balancer sent, in version 1 or 2. Bytes used (> 0); 0: more needed; -1: no header.
cdef int proxy_header_decode(
    const uint8_t *source, uint32_t size, ProxyHeader *header
) noexcept nogil
