# Networks of IP addresses: of trusted proxies, and of who may come to a tunnel. Pure.

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    NETWORKS_MAX = 64
    FORWARDED_HOPS_MAX = 32               # elements of X-Forwarded-For that are looked at

cdef struct Network:
    uint8_t bytes[16]                     # an IPv4 one as IPv4-mapped IPv6
    uint8_t prefix                        # bits, of 128

cdef struct Networks:
    Network items[NETWORKS_MAX]
    uint32_t count

# "192.0.2.0/24", "2001:db8::/32", or an address alone. Raises ValueError.
cdef int network_parse(Network *network, str text) except -1
cdef int networks_add(Networks *networks, str text) except -1
# `bytes` as address_bytes() gives it: `size` is 4 or 16.
cdef bint networks_have(const Networks *networks, const uint8_t *bytes, int size) noexcept nogil
# The same of any row of networks.
cdef bint network_row_has(
    const Network *items, uint32_t count, const uint8_t *bytes, int size
) noexcept nogil
