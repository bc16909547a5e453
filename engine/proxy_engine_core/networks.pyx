# See networks.pxd.

import ipaddress

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset


cdef int network_parse(Network *network, str text) except -1:
    cdef bytes packed
    try:
        parsed = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as 192.0.2.0/24: {error}") from None
    packed = parsed.network_address.packed
    network.prefix = parsed.prefixlen
    if parsed.version == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
        network.prefix += 96
    memcpy(network.bytes, <const char *>packed, 16)
    return 0


cdef int networks_add(Networks *networks, str text) except -1:
    if networks.count == NETWORKS_MAX:
        raise ValueError(f"more than {NETWORKS_MAX} networks")
    network_parse(&networks.items[networks.count], text)
    networks.count += 1
    return 0


cdef bint networks_have(const Networks *networks, const uint8_t *bytes, int size) noexcept nogil:
    return network_row_has(networks.items, networks.count, bytes, size)


cdef bint network_row_has(
    const Network *items, uint32_t count, const uint8_t *bytes, int size
) noexcept nogil:
    cdef uint8_t address[16]
    cdef const Network *network
    cdef uint32_t index, whole, rest
    if size == 16:
        memcpy(address, bytes, 16)
    elif size == 4:
        memset(address, 0, 10)
        memset(address + 10, 0xFF, 2)
        memcpy(address + 12, bytes, 4)
    else:
        return False
    for index in range(count):
        network = &items[index]
        whole = network.prefix // 8
        rest = network.prefix % 8
        if memcmp(network.bytes, address, whole) == 0 and (
            rest == 0 or (network.bytes[whole] ^ address[whole]) >> (8 - rest) == 0
        ):
            return True
    return False
