# See udp_table.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from proxy_engine_core.datagram cimport datagram_reader_free, datagram_reader_init
from proxy_engine_core.io.socket cimport Address

cdef enum:
    BUCKETS_MIN = 16


cdef uint32_t hash_of(const UdpListener *listener, const Address *address) noexcept nogil:
    # By words, each mixed in by a multiplication. The address is zero behind its end.
    cdef const uint8_t *bytes = <const uint8_t *>&address.storage
    cdef uint64_t value = listener.seed
    cdef uint64_t word
    cdef uint32_t place = 0
    while place < address.size:
        word = 0
        memcpy(&word, bytes + place, min(8, address.size - place))
        value = (value ^ word) * <uint64_t>0x9E3779B97F4A7C15
        value ^= value >> 29
        place += 8
    return <uint32_t>(value >> 32)


cdef inline UdpVisitor **bucket_of(const UdpListener *listener, uint32_t hash) noexcept nogil:
    return &listener.buckets[hash & (listener.bucket_count - 1)]


cdef UdpVisitor *udp_table_find(
    const UdpListener *listener, const Address *address
) noexcept nogil:
    cdef UdpVisitor *visitor
    cdef uint32_t hash
    if listener.visitor_count == 0:
        return NULL
    hash = hash_of(listener, address)
    visitor = bucket_of(listener, hash)[0]
    while visitor != NULL:
        if (
            visitor.hash == hash and visitor.address.size == address.size
            and memcmp(&visitor.address.storage, &address.storage, address.size) == 0
        ):
            return visitor
        visitor = visitor.next
    return NULL


cdef bint grow(UdpListener *listener) noexcept nogil:
    # False: there is no table at all. One that can not grow only gets slower.
    cdef UdpListener larger
    cdef UdpVisitor *visitor
    cdef UdpVisitor **bucket
    cdef uint32_t index
    if listener.visitor_count < listener.bucket_count:
        return True
    larger.bucket_count = listener.bucket_count * 2 if listener.bucket_count else BUCKETS_MIN
    larger.buckets = <UdpVisitor **>calloc(larger.bucket_count, sizeof(UdpVisitor *))
    if larger.buckets == NULL:
        return listener.buckets != NULL
    for index in range(listener.bucket_count):
        while listener.buckets[index] != NULL:
            visitor = listener.buckets[index]
            listener.buckets[index] = visitor.next
            bucket = bucket_of(&larger, visitor.hash)
            visitor.next = bucket[0]
            bucket[0] = visitor
    free(listener.buckets)
    listener.buckets = larger.buckets
    listener.bucket_count = larger.bucket_count
    return True


cdef UdpVisitor *udp_table_add(
    UdpListener *listener, const Address *address, uint64_t now_us
) noexcept nogil:
    cdef UdpVisitor *visitor
    cdef UdpVisitor **bucket
    if not grow(listener):
        return NULL
    visitor = <UdpVisitor *>calloc(1, sizeof(UdpVisitor))
    if visitor == NULL:
        return NULL
    visitor.listener = listener
    visitor.address = address[0]
    visitor.hash = hash_of(listener, address)
    visitor.started_us = now_us
    visitor.seen_us = now_us
    datagram_reader_init(&visitor.reader, &listener.conn.worker.pool)
    bucket = bucket_of(listener, visitor.hash)
    visitor.next = bucket[0]
    bucket[0] = visitor
    list_put(&listener.brief, visitor)
    listener.visitor_count += 1
    return visitor


cdef void udp_table_remove(UdpVisitor *visitor) noexcept nogil:
    cdef UdpListener *listener = visitor.listener
    cdef UdpVisitor **link = bucket_of(listener, visitor.hash)
    while link[0] != visitor:
        link = &link[0].next
    link[0] = visitor.next
    list_take(list_of(visitor), visitor)
    listener.visitor_count -= 1
    datagram_reader_free(&visitor.reader)
    free(visitor)


# --- in the order they were seen --------------------------------------------------------

cdef inline UdpVisitorList *list_of(UdpVisitor *visitor) noexcept nogil:
    return &visitor.listener.lasting if visitor.is_lasting else &visitor.listener.brief


cdef void list_put(UdpVisitorList *seen, UdpVisitor *visitor) noexcept nogil:
    visitor.newer = NULL
    visitor.older = seen.newest
    if seen.newest != NULL:
        seen.newest.newer = visitor
    else:
        seen.oldest = visitor
    seen.newest = visitor


cdef void list_take(UdpVisitorList *seen, UdpVisitor *visitor) noexcept nogil:
    if visitor.newer != NULL:
        visitor.newer.older = visitor.older
    else:
        seen.newest = visitor.older
    if visitor.older != NULL:
        visitor.older.newer = visitor.newer
    else:
        seen.oldest = visitor.newer


cdef void udp_table_seen(UdpVisitor *visitor, uint64_t now_us) noexcept nogil:
    cdef UdpVisitorList *seen = list_of(visitor)
    visitor.seen_us = now_us
    if seen.newest != visitor:
        list_take(seen, visitor)
        list_put(seen, visitor)


cdef void udp_table_lasts(UdpVisitor *visitor) noexcept nogil:
    if not visitor.is_lasting:
        list_take(&visitor.listener.brief, visitor)
        visitor.is_lasting = True
        list_put(&visitor.listener.lasting, visitor)
