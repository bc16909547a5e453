# See addresses.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from proxy_engine_core.io.socket cimport Address, address_bytes
from proxy_engine_core.wire cimport load_be32, load_be64


cdef int address_table_init(AddressTable *table, uint32_t size, uint64_t seed) noexcept nogil:
    cdef uint32_t set_count = 1
    while set_count * ADDRESS_WAYS < size:
        set_count *= 2
    table.entries = <AddressEntry *>calloc(set_count * ADDRESS_WAYS, sizeof(AddressEntry))
    if table.entries == NULL:
        return -ENOMEM
    table.seed = seed
    table.set_mask = set_count - 1
    return 0


cdef void address_table_free(AddressTable *table) noexcept nogil:
    free(table.entries)
    table.entries = NULL


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    # The finalizer of splitmix64.
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)


cdef AddressEntry *address_table_get(
    AddressTable *table, uint64_t key, uint64_t now_us
) noexcept nogil:
    cdef uint32_t index = <uint32_t>mixed(key ^ table.seed) & table.set_mask
    cdef AddressEntry *entries = &table.entries[index * ADDRESS_WAYS]
    cdef AddressEntry *oldest = NULL
    cdef uint32_t way
    for way in range(ADDRESS_WAYS):
        if entries[way].key == key:
            entries[way].seen_us = now_us
            return &entries[way]
        if entries[way].connections == 0 and (
            oldest == NULL or entries[way].seen_us < oldest.seen_us
        ):
            oldest = &entries[way]
    if oldest != NULL:
        memset(oldest, 0, sizeof(AddressEntry))
        oldest.key = key
        oldest.seen_us = now_us
    return oldest


cdef uint64_t address_key(const Address *address) noexcept nogil:
    cdef uint8_t bytes[16]
    cdef int size = address_bytes(address, bytes)
    if size == 4:
        # ffff:ffff::/64 is no one's, so this can not be an IPv6 key.
        return <uint64_t>0xFFFFFFFF00000000 | load_be32(bytes)
    if size == 16:
        # :: and 0::/64, the only ones that would be 0, are loopback and the like.
        return load_be64(bytes) | <uint64_t>(load_be64(bytes) == 0)
    return 1
