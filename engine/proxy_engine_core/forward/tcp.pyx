# See tcp.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from proxy_engine_core.atomic cimport counter_add
from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_head, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_BAD_PROXY_HEADERS, COUNT_MEMORY_ERRORS, COUNT_MEMORY_REFUSED, COUNT_TCP_CONNECTIONS,
    COUNT_TCP_REFUSED, COUNT_VISITOR_MOVES_EXHAUSTED, count,
)
from proxy_engine_core.forward.addresses cimport address_key
from proxy_engine_core.forward.admission cimport (
    Refusal, admission_enter, admit_connection, admit_device,
)
from proxy_engine_core.forward.body cimport run_tunnel
from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED
from proxy_engine_core.forward.clock cimport transaction_deadline
from proxy_engine_core.forward.describe cimport new_request_id
from proxy_engine_core.forward.direct cimport direct_open
from proxy_engine_core.forward.dispatch cimport start_waiting, wait_for_stream
from proxy_engine_core.forward.gate cimport gate_turns_away
from proxy_engine_core.forward.move cimport MOVES_MAX, visitor_move
from proxy_engine_core.forward.pace cimport pace_newcomer
from proxy_engine_core.forward.pool cimport pool_is_full, pool_open, pool_stop_waiting
from proxy_engine_core.forward.route cimport (
    ROUTE_KEY_SIZE_MAX, Route, route_name, route_profile, route_table_find,
)
from proxy_engine_core.forward.routing cimport live_link, other_worker
from proxy_engine_core.forward.transaction cimport (
    VISITOR_TCP_HEADER, VISITOR_TCP_OPENING, VISITOR_TUNNEL, HttpStream, ServerRole, Transaction,
    Visitor, server_of, transaction_begin, transaction_fail, transaction_routed,
    transaction_set_tcp, visitor_close,
)
from proxy_engine_core.io.conn cimport (
    conn_deadline, conn_owed, conn_recv, conn_requeue, conn_stop_waiting, conn_wait,
)
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.profile cimport profile_apply
from proxy_engine_core.io.socket cimport (
    ADDRESS_TEXT_SIZE, Address, address_bytes, address_parse, address_port, address_set,
    address_text, socket_local_address, socket_reset_on_close,
)
from proxy_engine_core.io.worker cimport CONN_READABLE, Worker
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.link.output cimport link_is_full
from proxy_engine_core.proxy_protocol cimport (
    PREAMBLE_SIZE_MAX, PREAMBLE_TCP_SIZE_MAX, ProxyEnd, ProxyHeader, preamble_encode_tcp,
    proxy_header_decode,
)
from proxy_engine_core.quota cimport quota_is_ended


cdef void tcp_begin(Visitor *visitor, uint16_t port) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef char tunnel[8]
    cdef int size = snprintf(tunnel, sizeof(tunnel), ":%u", <unsigned int>port)
    if transaction_begin(visitor) == NULL:
        socket_reset_on_close(visitor.conn.fd)
        visitor_close(visitor)
        return
    count(worker.counters, COUNT_TCP_CONNECTIONS, 1)
    new_request_id(visitor)
    transaction_set_tcp(visitor.transaction, <const uint8_t *>tunnel, <uint32_t>size)
    if worker.options.tcp_proxy_protocol and visitor.address_key == CLIENT_KEY_TRUSTED:
        visitor.state = VISITOR_TCP_HEADER
        conn_deadline(&visitor.conn, worker.options.head_timeout_ms)
    else:
        visitor.state = VISITOR_TCP_OPENING
        conn_deadline(&visitor.conn, worker.options.open_timeout_ms)
    conn_requeue(&visitor.conn)


cdef void refuse(Visitor *visitor, const char *reason) noexcept nogil:
    count(visitor.conn.worker.counters, COUNT_TCP_REFUSED, 1)
    transaction_fail(visitor, 0, reason, b"")


# --- the header of a load balancer --------------------------------------------------------------

cdef void tcp_read_header(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef ProxyHeader header
    cdef int64_t received
    cdef int used = 0
    while used == 0:
        if not visitor.conn.flags & CONN_READABLE:
            return
        # What comes behind it waits in visitor.input: no more than this.
        received = conn_recv(&visitor.conn, worker.scratch, PREAMBLE_SIZE_MAX)
        if received == -EAGAIN:
            return
        if received <= 0:
            transaction_fail(visitor, 0, b"visitor_gone", b"")
            return
        if buffer_append(&visitor.input, worker.scratch, <uint32_t>received) < 0:
            count(worker.counters, COUNT_MEMORY_ERRORS, 1)
            refuse(visitor, b"no_memory")
            return
        used = proxy_header_decode(
            buffer_head(&visitor.input), buffer_size(&visitor.input), &header
        )
    if used < 0 or not take_address(visitor, &header):
        count(worker.counters, COUNT_BAD_PROXY_HEADERS, 1)
        refuse(visitor, b"bad_proxy_header")
        return
    buffer_consume(&visitor.input, <uint32_t>used)
    visitor.state = VISITOR_TCP_OPENING
    conn_deadline(&visitor.conn, worker.options.open_timeout_ms)
    if visitor.address_key != CLIENT_KEY_TRUSTED and visitor.address_entry == NULL:
        enter(visitor)
        return
    tcp_open(visitor)


cdef bint take_address(Visitor *visitor, const ProxyHeader *header) noexcept nogil:
    """The visitor is who the header names from now on. False: it names nobody."""
    cdef Address address
    cdef char text[ADDRESS_TEXT_SIZE]
    if header.text != NULL:
        if header.text_size >= ADDRESS_TEXT_SIZE:
            return False
        memcpy(text, header.text, header.text_size)
        text[header.text_size] = 0
        if address_parse(&address, text, header.visitor.port) < 0:
            return False
    elif header.visitor.size:
        address_set(&address, header.visitor.bytes, header.visitor.size, header.visitor.port)
    else:
        return True                       # the proxy itself, for instance to see if we live
    visitor.address_size = <uint8_t>address_text(&address, visitor.address)
    visitor.port = address_port(&address)
    visitor.address_key = address_key(&address)
    return True


cdef void enter(Visitor *visitor) noexcept nogil:
    # The limits of addresses are for the one behind the proxy.
    cdef Address address
    address_parse(&address, visitor.address, visitor.port)
    if not admit_connection(visitor.conn.worker, &address):
        refuse(visitor, b"visitor_rate")
        return
    admission_enter(visitor)
    tcp_open(visitor)


# --- the stream ---------------------------------------------------------------------------------

cdef Route *find_route(ServerRole *role, const Transaction *transaction) noexcept nogil:
    cdef uint8_t key[ROUTE_KEY_SIZE_MAX]
    memcpy(key, b"tcp:", 4)
    memcpy(key + 4, transaction.host, transaction.host_size)
    return route_table_find(&role.routes, key, 4 + transaction.host_size)


cdef void move_on(Visitor *visitor, uint32_t other) noexcept nogil:
    """To the worker where the tunnel's link is."""
    pool_stop_waiting(visitor)
    conn_stop_waiting(&visitor.conn)
    if conn_owed(&visitor.conn):
        return                            # a 101, once it is sent: its edge comes
    if not visitor_move(
        visitor, other, buffer_head(&visitor.input), buffer_size(&visitor.input)
    ):
        refuse(visitor, b"no_memory")


cdef void tcp_open(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    cdef Route *route
    cdef Link *link
    cdef HttpStream *http = NULL
    cdef uint8_t preamble[PREAMBLE_TCP_SIZE_MAX]
    cdef uint32_t preamble_size = 0
    cdef Refusal refusal
    cdef int other
    cdef const char *reason
    if visitor.opening_link != NULL and visitor.opening_link.opening_first != visitor:
        return                            # not its turn
    if worker.pressure >= PRESSURE_WORK:
        count(worker.counters, COUNT_MEMORY_REFUSED, 1)
        refuse(visitor, b"memory_short")
        return
    if quota_is_ended(transaction.joined_by):
        refuse(visitor, b"token_ended")   # while it came from another worker
        return
    route = find_route(server_of(worker), transaction)
    if route == NULL:
        refuse(visitor, b"unknown_tunnel")
        return
    transaction_routed(worker, transaction, route)
    if route.policy != NULL:
        reason = gate_turns_away(visitor, route.policy)
        if reason != NULL:
            refuse(visitor, reason)
            return
    link = live_link(worker, route, 0)
    if link == NULL:
        other = other_worker(worker, route)
        if other >= 0 and transaction.moves < MOVES_MAX:
            move_on(visitor, <uint32_t>other)
            return
        if other >= 0:
            count(worker.counters, COUNT_VISITOR_MOVES_EXHAUSTED, 1)
        refuse(visitor, b"device_offline")
        return
    if not admit_device(visitor, link, &refusal):
        refuse(visitor, refusal.reason)
        return
    if visitor.opening_link != link:
        pool_stop_waiting(visitor)        # it was sent to another link meanwhile
    if transaction.quota != NULL and pace_newcomer(visitor):
        start_waiting(visitor)
        return
    if link.has_preamble:
        preamble_size = write_preamble(visitor, route, preamble)
        if link.direct != NULL and direct_open(
            visitor, link, route_profile(route), preamble, preamble_size
        ):
            return
    if link_is_full(link, NULL):
        conn_wait(&visitor.conn, &link.waiting)
        start_waiting(visitor)
        return
    if link.opening_first == NULL or link.opening_first == visitor:
        http = pool_open(link, route, preamble, preamble_size)
        if http == NULL and not pool_is_full(link):
            refuse(visitor, b"no_memory")
            return
    if http == NULL:
        if not wait_for_stream(visitor, link):
            refuse(visitor, b"overloaded")
        return
    pool_stop_waiting(visitor)
    transaction.http = http
    transaction.link = link
    transaction.device = link.device
    transaction.is_waiting = False
    transaction.sent_us = worker.now_us
    http.visitor = visitor
    visitor.state = VISITOR_TUNNEL
    profile_apply(http.profile, visitor.conn.fd)
    counter_add(&transaction.stats.connections, 1)
    transaction_deadline(visitor)
    run_tunnel(visitor)


cdef uint32_t write_preamble(
    const Visitor *visitor, const Route *route, uint8_t *preamble
) noexcept nogil:
    cdef ProxyEnd source, listener
    cdef Address address
    source.size = 0
    listener.size = 0
    if address_parse(&address, visitor.address, visitor.port) == 0:
        fill_end(&source, &address)
    if socket_local_address(visitor.conn.fd, &address) == 0:
        fill_end(&listener, &address)
    return preamble_encode_tcp(
        preamble, route_name(route), route.name_size, route_profile(route).id, &source, &listener
    )


cdef void fill_end(ProxyEnd *end, const Address *address) noexcept nogil:
    end.size = <uint8_t>address_bytes(address, end.bytes)
    end.port = address_port(address)
