# See client.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy

from proxy_engine_core.forward.addresses cimport address_key
from proxy_engine_core.forward.transaction cimport Transaction, Visitor
from proxy_engine_core.http1.head cimport FIELD_X_FORWARDED_FOR, Field, Head
from proxy_engine_core.io.socket cimport (
    ADDRESS_TEXT_SIZE, Address, address_bytes, address_parse, address_text,
)
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.networks cimport FORWARDED_HOPS_MAX, networks_have


cdef bint is_trusted_peer(const Worker *worker, const Address *peer) noexcept nogil:
    cdef uint8_t bytes[16]
    if worker.crew.trusted.count == 0:
        return False
    return networks_have(&worker.crew.trusted, bytes, address_bytes(peer, bytes))


cdef bint parse_hop(Address *address, const uint8_t *text, uint32_t size) noexcept nogil:
    # An address, also as [IPv6], [IPv6]:port or IPv4:port, which some write.
    cdef char copy[ADDRESS_TEXT_SIZE]
    cdef const uint8_t *end
    if size and text[0] == c'[':
        end = <const uint8_t *>memchr(text, c']', size)
        if end == NULL:
            return False
        text += 1
        size = <uint32_t>(end - text)
    else:
        end = <const uint8_t *>memchr(text, c':', size)
        if end != NULL and memchr(end + 1, c':', size - (end + 1 - text)) == NULL:
            size = <uint32_t>(end - text)
    if size == 0 or size >= ADDRESS_TEXT_SIZE:
        return False
    memcpy(copy, text, size)
    copy[size] = 0
    return address_parse(address, copy, 0) == 0


cdef uint32_t last_element(const uint8_t *text, uint32_t *size) noexcept nogil:
    # Where the last element of a list begins; *size is its own then, without white space.
    cdef uint32_t end = size[0]
    cdef uint32_t start
    while end and (text[end - 1] == c' ' or text[end - 1] == c'\t'):
        end -= 1
    start = end
    while start and text[start - 1] != c',':
        start -= 1
    size[0] = end - start
    while size[0] and (text[start] == c' ' or text[start] == c'\t'):
        start += 1
        size[0] -= 1
    return start


cdef void set_client(Visitor *visitor, const Address *address) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    transaction.client_key = address_key(address)
    transaction.client_size = <uint8_t>address_text(address, transaction.client)


cdef void find_client(Visitor *visitor, const Head *head) noexcept nogil:
    cdef Address address
    cdef uint8_t bytes[16]
    cdef const uint8_t *text
    cdef const Field *field
    cdef uint32_t index = head.field_count
    cdef uint32_t hops = 0
    cdef uint32_t start, size, left
    if address_parse(&address, visitor.address, 0) == 0:
        set_client(visitor, &address)
    while index:
        index -= 1
        field = &head.fields[index]
        if field.id != FIELD_X_FORWARDED_FOR:
            continue
        text = head.bytes + field.value.start
        left = field.value.size
        while left:
            size = left
            start = last_element(text, &size)
            hops += 1
            if hops > FORWARDED_HOPS_MAX or not parse_hop(&address, text + start, size):
                return
            set_client(visitor, &address)
            if not networks_have(
                &visitor.conn.worker.crew.trusted, bytes, address_bytes(&address, bytes)
            ):
                return
            while start and text[start - 1] != c',':
                start -= 1
            left = start - 1 if start else 0
