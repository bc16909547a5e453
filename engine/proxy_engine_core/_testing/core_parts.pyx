# The engine's small parts for pytest: timer wheel, SPSC ring, mailbox, route table, learnt
# idle limit, table of addresses, token buckets, SHA-256 and the preamble of a stream.

cimport cython

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from proxy_engine_core.bucket cimport *
from proxy_engine_core.buffer cimport BufferPool, buffer_pool_free, buffer_pool_init
from proxy_engine_core.datagram cimport *
from proxy_engine_core.flood cimport *
from proxy_engine_core.forward.addresses cimport *
from proxy_engine_core.forward.idle cimport *
from proxy_engine_core.forward.route cimport *
from proxy_engine_core.io.mailbox cimport *
from proxy_engine_core.io.socket cimport *
from proxy_engine_core.io.timer cimport *
from proxy_engine_core.options cimport Options
from proxy_engine_core.proxy_protocol cimport *
from proxy_engine_core.quota cimport *
from proxy_engine_core.sha256 cimport *
from proxy_engine_core.spsc cimport *
from proxy_engine_core.yamux.session cimport YamuxSession

TICK_MS = TIMER_TICK_MS
SLOT_COUNT = TIMER_SLOTS
TUNNEL_TLV = PREAMBLE_TLV_TUNNEL
PREAMBLE_MAX = PREAMBLE_SIZE_MAX


@cython.final
cdef class Wheel:
    cdef TimerWheel wheel
    cdef Timer *timers
    cdef int timer_count

    def __cinit__(self, int timer_count, uint64_t now_ms):
        self.timer_count = timer_count
        self.timers = <Timer *>calloc(timer_count, sizeof(Timer))
        if self.timers == NULL:
            raise MemoryError
        timer_wheel_init(&self.wheel, now_ms)

    def __dealloc__(self):
        free(self.timers)

    def set(self, int index, uint64_t deadline_ms):
        timer_set(&self.wheel, &self.timers[index], deadline_ms)

    def cancel(self, int index):
        timer_cancel(&self.timers[index])

    def remove(self, int index):
        timer_remove(&self.wheel, &self.timers[index])

    def expire(self, uint64_t now_ms):
        """Indexes of the timers due, in the order they come."""
        cdef Timer *timer
        cdef list due = []
        while True:
            timer = timer_wheel_expire(&self.wheel, now_ms)
            if timer == NULL:
                return due
            due.append(timer - self.timers)

    def wait_ms(self, uint64_t now_ms):
        return timer_wheel_wait_ms(&self.wheel, now_ms)


@cython.final
cdef class Ring:
    cdef SpscRing ring

    def __cinit__(self, uint64_t capacity):
        if spsc_init(&self.ring, capacity) < 0:
            raise MemoryError

    def __dealloc__(self):
        spsc_free(&self.ring)

    def push(self, bytes record):
        """False: full."""
        cdef uint8_t *place = spsc_reserve(&self.ring, <uint32_t>len(record))
        if place == NULL:
            return False
        memcpy(place, <const char *>record, len(record))
        spsc_publish(&self.ring)
        return True

    def pop(self):
        """The oldest record; None: empty."""
        cdef uint32_t size
        cdef const uint8_t *place = spsc_peek(&self.ring, &size)
        if place == NULL:
            return None
        record = (<const char *>place)[:size]
        spsc_pop(&self.ring, size)
        return record

    def used(self):
        return spsc_used(&self.ring)


@cython.final
cdef class Box:
    cdef Mailbox mailbox

    def __cinit__(self):
        self.mailbox.event_fd = -1
        if mailbox_init(&self.mailbox) < 0:
            raise OSError

    def __dealloc__(self):
        mailbox_close(&self.mailbox)

    @property
    def event_fd(self):
        return self.mailbox.event_fd

    def post(self, uint32_t kind):
        cdef MailboxNode *node = <MailboxNode *>calloc(1, sizeof(MailboxNode))
        if node == NULL:
            raise MemoryError
        node.kind = kind
        with nogil:
            mailbox_post(&self.mailbox, node)

    def take(self):
        """Kinds of all messages, oldest first."""
        cdef MailboxNode *node = mailbox_take(&self.mailbox)
        cdef MailboxNode *following
        cdef list kinds = []
        while node != NULL:
            following = node.next
            kinds.append(node.kind)
            free(node)
            node = following
        return kinds

    def arm(self):
        return mailbox_arm(&self.mailbox)


@cython.final
cdef class Routes:
    cdef RouteTable table

    def __cinit__(self):
        route_table_init(&self.table)

    def __dealloc__(self):
        route_table_free(&self.table)

    def set(self, bytes key, uint32_t id, list links, bytes name):
        cdef Route *route
        cdef uint64_t handles[ROUTE_LINKS_MAX]
        for index, handle in enumerate(links):
            handles[index] = handle
        route = route_new(
            id, handles, <uint32_t>len(links), <const uint8_t *><const char *>name,
            <uint32_t>len(name), <const uint8_t *><const char *>key, <uint32_t>len(key),
        )
        if route == NULL:
            raise MemoryError
        route_table_set(&self.table, route)

    def delete(self, bytes key):
        route_table_delete(&self.table, <const uint8_t *><const char *>key, <uint32_t>len(key))

    def find(self, bytes key):
        cdef Route *route = route_table_find(
            &self.table, <const uint8_t *><const char *>key, <uint32_t>len(key)
        )
        if route == NULL:
            return None
        links = [route_links(route)[index] for index in range(route.link_count)]
        return (route.id, links, (<const char *>route_name(route))[:route.name_size])

    def __len__(self):
        return self.table.count


def preamble(bytes tunnel, uint8_t profile=0):
    cdef uint8_t target[PREAMBLE_HTTP_SIZE_MAX]
    if not 1 <= len(tunnel) <= 63:
        raise ValueError("a tunnel name has 1 to 63 bytes")
    size = preamble_encode(
        target, <const uint8_t *><const char *>tunnel, <uint32_t>len(tunnel), profile
    )
    return (<const char *>target)[:size]


cdef int set_end(ProxyEnd *end, bytes address, int port) except -1:
    if len(address) not in (0, 4, 16):
        raise ValueError("an address has 4 or 16 bytes, or none")
    end.size = <uint8_t>len(address)
    end.port = <uint16_t>port
    memcpy(end.bytes, <const char *>address, len(address))
    return 0


def preamble_tcp(bytes tunnel, tuple visitor, tuple listener, uint8_t profile=0):
    """That of a TCP tunnel's stream; the ends are (address bytes, port)."""
    cdef uint8_t target[PREAMBLE_TCP_SIZE_MAX]
    cdef ProxyEnd ends[2]
    if not 1 <= len(tunnel) <= 63:
        raise ValueError("a tunnel name has 1 to 63 bytes")
    set_end(&ends[0], visitor[0], visitor[1])
    set_end(&ends[1], listener[0], listener[1])
    size = preamble_encode_tcp(
        target, <const uint8_t *><const char *>tunnel, <uint32_t>len(tunnel), profile, &ends[0],
        &ends[1],
    )
    return (<const char *>target)[:size]


def parse_proxy_header(bytes source):
    """(bytes used, (address, port) or None); an address is text of version 1, bytes of 2."""
    cdef ProxyHeader found
    cdef uint8_t *block = <uint8_t *>malloc(len(source) if source else 1)
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *>source, len(source))
    used = proxy_header_decode(block, <uint32_t>len(source), &found)
    visitor = None
    if used > 0 and found.text != NULL:
        visitor = ((<const char *>found.text)[:found.text_size].decode(), found.visitor.port)
    elif used > 0 and found.visitor.size:
        visitor = ((<const char *>found.visitor.bytes)[:found.visitor.size], found.visitor.port)
    free(block)
    return (used, visitor)


def parse_preamble(bytes source):
    """(bytes used, tunnel or None); used is 0: more needed, -1: refused."""
    cdef Preamble found
    # A block of the exact size, so that AddressSanitizer sees a read beyond its end.
    cdef uint8_t *block = <uint8_t *>malloc(len(source) if source else 1)
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *>source, len(source))
    used = preamble_decode(block, <uint32_t>len(source), &found)
    tunnel = None
    if used > 0 and found.tunnel != NULL:
        tunnel = (<const char *>found.tunnel)[:found.tunnel_size]
    free(block)
    return (used, tunnel)


def preamble_profile(bytes source):
    """The profile that a whole preamble names."""
    cdef Preamble found
    used = preamble_decode(<const uint8_t *><const char *>source, <uint32_t>len(source), &found)
    if used <= 0:
        raise ValueError("not a preamble")
    return found.profile


def ring_bench(uint64_t capacity, uint32_t size, uint32_t rounds):
    """Move `rounds` records of `size` bytes through a ring, filled and emptied in turn."""
    cdef SpscRing ring
    cdef uint8_t *place
    cdef const uint8_t *record
    cdef uint32_t found, moved = 0
    if spsc_init(&ring, capacity) < 0:
        raise MemoryError
    with nogil:
        while moved < rounds:
            while True:
                place = spsc_reserve(&ring, size)
                if place == NULL:
                    break
                place[0] = <uint8_t>moved
                spsc_publish(&ring)
            while True:
                record = spsc_peek(&ring, &found)
                if record == NULL:
                    break
                spsc_pop(&ring, found)
                moved += 1
    spsc_free(&ring)
    return moved


@cython.final
cdef class Idle:
    cdef IdleLimit limit

    def __cinit__(self, uint64_t start_ms, uint64_t cap_ms):
        idle_limit_init(&self.limit, start_ms, cap_ms)

    def closed(self, uint64_t idled_us, uint64_t now_us):
        idle_limit_closed(&self.limit, idled_us, now_us)

    def survived(self, uint64_t idled_us, uint64_t now_us):
        idle_limit_survived(&self.limit, idled_us, now_us)

    def told(self, int32_t seconds):
        idle_limit_told(&self.limit, seconds)

    @property
    def limit_us(self):
        return self.limit.limit_us

    @property
    def keep_us(self):
        return idle_keep_us(&self.limit)


@cython.final
cdef class Bucket:
    cdef uint64_t full_ns
    cdef uint64_t rate
    cdef uint64_t burst_ms

    def __cinit__(self, uint64_t rate, uint64_t burst_ms):
        self.rate = rate
        self.burst_ms = burst_ms

    def take(self, uint64_t now_us):
        return bool(bucket_take(&self.full_ns, now_us, self.rate, self.burst_ms))


@cython.final
cdef class Shared:
    """A quota, by what links do with it."""

    cdef Quota *quota

    def __cinit__(self, uint64_t connections, uint64_t requests, uint64_t size):
        self.quota = quota_new(1)
        if self.quota == NULL:
            raise MemoryError
        quota_set(self.quota, connections, requests, size)

    def __dealloc__(self):
        quota_drop(self.quota)

    def set(self, uint64_t connections, uint64_t requests, uint64_t size):
        return bool(quota_set(self.quota, connections, requests, size))

    def enter(self):
        return bool(quota_enter(self.quota))

    def leave(self):
        quota_leave(self.quota)

    def connections(self):
        return quota_connections(self.quota)

    def request(self, uint64_t now_us, uint64_t burst_ms):
        return bool(quota_take_request(self.quota, now_us, burst_ms))

    def spend(self, uint64_t now_us, uint32_t size, uint64_t burst_ms):
        return quota_spend(self.quota, now_us, size, burst_ms)

    def wait_us(self, uint64_t now_us, uint64_t burst_ms):
        return quota_wait_us(self.quota, now_us, burst_ms)

    def race(self, int rounds):
        """Enter and leave without the GIL; how often it was let in, and how often there were
        more than there may be."""
        cdef int entered = 0, too_many = 0, _round
        with nogil:
            for _round in range(rounds):
                if quota_enter(self.quota):
                    entered += 1
                    if quota_connections(self.quota) > self.quota.connections_max:
                        too_many += 1
                    quota_leave(self.quota)
        return entered, too_many

    def race_requests(self, int rounds, uint64_t now_us, uint64_t burst_ms):
        cdef int taken = 0, _round
        with nogil:
            for _round in range(rounds):
                taken += quota_take_request(self.quota, now_us, burst_ms)
        return taken

    def race_bytes(self, int rounds, uint64_t now_us, uint32_t size):
        cdef int _round
        with nogil:
            for _round in range(rounds):
                quota_spend(self.quota, now_us, size, 0)


@cython.final
cdef class Addresses:
    cdef AddressTable table

    def __cinit__(self, uint32_t size, uint64_t seed=0):
        if address_table_init(&self.table, size, seed) < 0:
            raise MemoryError

    def __dealloc__(self):
        address_table_free(&self.table)

    def see(self, uint64_t key, uint64_t now_us, int connections=0):
        """Connections of `key`, after adding so many; None: no room for it."""
        cdef AddressEntry *entry = address_table_get(&self.table, key, now_us)
        if entry == NULL:
            return None
        entry.connections += connections
        return entry.connections

    def __len__(self):
        return (self.table.set_mask + 1) * ADDRESS_WAYS


def sha256_of(bytes message):
    cdef uint8_t digest[SHA256_SIZE]
    sha256(message, len(message), digest)
    return digest[:SHA256_SIZE]


def key_of_address(str ip):
    cdef Address address
    if address_parse(&address, ip.encode(), 0) < 0:
        raise ValueError(ip)
    return address_key(&address)


@cython.final
cdef class PingFlood:
    cdef Flood flood
    cdef YamuxSession session
    cdef Options options

    def __cinit__(self, uint64_t pings_max):
        memset(&self.options, 0, sizeof(Options))
        self.options.link_pings_max = pings_max

    def look(self, uint64_t pings, uint64_t now_ms):
        """The reason to end the link when so many pings have come in all, or ""."""
        cdef int kind = flood_look(
            &self.flood, &self.session, pings, 0, now_ms, &self.options
        )
        return "" if kind < 0 else (<bytes>flood_reason(kind)).decode()


def datagrams(list pieces):
    """The datagrams of these pieces of a stream, and what ended it: 0, or an error."""
    cdef BufferPool pool
    cdef DatagramReader reader
    cdef uint8_t *cursor
    cdef uint8_t *block
    cdef uint8_t *end
    cdef uint8_t *payload
    cdef uint32_t size
    cdef int status = 0
    cdef list found = []
    buffer_pool_init(&pool)
    datagram_reader_init(&reader, &pool)
    for piece in pieces:
        block = <uint8_t *>malloc(len(piece) + 1)      # of its own, so that ASan sees its end
        memcpy(block, <const uint8_t *><const char *>piece, len(piece))
        cursor = block
        end = block + len(piece)
        while True:
            status = datagram_next(&reader, &cursor, end, &payload, &size)
            if status <= 0:
                break
            found.append(payload[:size])
        free(block)
        if status < 0:
            break
    datagram_reader_free(&reader)
    assert pool.bytes_lent == 0
    buffer_pool_free(&pool)
    return found, status
