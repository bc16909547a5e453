# What a worker remembers of visitors' addresses: connections open now, and two token
# buckets. An IPv4 address is one, and so is an IPv6 /64, which is what one subscriber has.
#
# A table of fixed size: sets of ADDRESS_WAYS entries, the set chosen by a hash seeded at
# random. A new address takes the place of the one in its set that was seen longest ago and
# has no connection open. So every operation looks at one set, memory is bounded whatever
# comes, and what is forgotten is who has not come for long. When all of a set have
# connections open the newcomer goes untracked: the limits do not lock out who is well-behaved.
#
# Pure: the clock is passed in.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.io.socket cimport Address


cdef enum:
    ADDRESS_WAYS = 8

cdef struct AddressEntry:
    uint64_t key                          # 0: free
    uint64_t connects_ns                  # buckets: see bucket.pxd
    uint64_t requests_ns
    uint64_t seen_us
    uint32_t connections

cdef struct AddressTable:
    AddressEntry *entries
    uint64_t seed
    uint32_t set_mask

# `size` entries, rounded up to a power of two. 0, -ENOMEM.
cdef int address_table_init(AddressTable *table, uint32_t size, uint64_t seed) noexcept nogil
cdef void address_table_free(AddressTable *table) noexcept nogil       # idempotent
# What is known of `key`, or a fresh entry for it; NULL: no room in its set.
cdef AddressEntry *address_table_get(
    AddressTable *table, uint64_t key, uint64_t now_us
) noexcept nogil
# Never 0. IPv4-mapped IPv6 is IPv4.
cdef uint64_t address_key(const Address *address) noexcept nogil
