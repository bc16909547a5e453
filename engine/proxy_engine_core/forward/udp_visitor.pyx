# See udp_visitor.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from proxy_engine_core.atomic cimport (
    atomic_add, atomic_load_relaxed, atomic_subtract, counter_add,
)
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_TOKEN_BUSY_REFUSED, COUNT_TOKEN_RATE_REFUSED, COUNT_UDP_VISITORS,
    COUNT_VISITOR_BYTES_IN, COUNT_VISITOR_BYTES_OUT, count,
)
from proxy_engine_core.forward.addresses cimport address_key, address_table_get
from proxy_engine_core.forward.admission cimport admit_connection
from proxy_engine_core.forward.gate cimport gate_turns_address_away
from proxy_engine_core.forward.log cimport LogHeader, LogTexts, log_put
from proxy_engine_core.forward.pool cimport pool_stream, pool_wake
from proxy_engine_core.forward.request_id cimport REQUEST_ID_SIZE, request_id_write
from proxy_engine_core.forward.route cimport (
    Route, route_name, route_profile, route_table_find,
)
from proxy_engine_core.forward.route_stats cimport (
    route_stats_begin, route_stats_bytes, route_stats_end, route_stats_leave,
)
from proxy_engine_core.forward.routing cimport live_link
from proxy_engine_core.forward.transaction cimport (
    LOG_ABORTED, LOG_TUNNEL, LOG_UDP, ServerRole, server_of, stats_of,
)
from proxy_engine_core.forward.udp_table cimport (
    UdpListener, UdpVisitor, udp_table_add, udp_table_remove,
)
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.socket cimport (
    ADDRESS_TEXT_SIZE, Address, address_bytes, address_port, address_set, address_text,
    socket_local_address,
)
from proxy_engine_core.io.udp cimport UdpInput, udp_is_wildcard, udp_local
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport OWNER_UDP, Link
from proxy_engine_core.link.output cimport link_touch
from proxy_engine_core.proxy_protocol cimport PREAMBLE_TCP_SIZE_MAX, ProxyEnd, preamble_encode_udp
from proxy_engine_core.quota cimport (
    Quota, quota_enter, quota_has_bandwidth, quota_is_limited, quota_leave, quota_spend,
    quota_take_request,
)
from proxy_engine_core.yamux.send cimport yamux_stream_send
from proxy_engine_core.yamux.session cimport YAMUX_RESET_CANCEL
from proxy_engine_core.yamux.stream cimport yamux_stream_release


cdef bint enter_quota(Quota *quota, Worker *worker) noexcept nogil:
    if not quota_enter(quota):
        count(worker.counters, COUNT_TOKEN_BUSY_REFUSED, 1)
        return False
    if quota_take_request(quota, worker.now_us, worker.options.rate_burst_ms):
        return True
    count(worker.counters, COUNT_TOKEN_RATE_REFUSED, 1)
    quota_leave(quota)
    return False


cdef void leave_quota(UdpVisitor *visitor) noexcept nogil:
    if visitor.quota != NULL:
        quota_leave(visitor.quota)
        visitor.quota = NULL


cdef UdpVisitor *udp_visitor_open(
    UdpListener *listener, const UdpInput *batch, int index
) noexcept nogil:
    cdef Worker *worker = listener.conn.worker
    cdef ServerRole *role = server_of(worker)
    cdef const Address *address = &batch.addresses[index]
    cdef uint8_t key[12]
    cdef int key_size = snprintf(<char *>key, 12, "udp::%u", <unsigned int>listener.port)
    cdef Route *route = route_table_find(&role.routes, key, <uint32_t>key_size)
    cdef UdpVisitor *visitor
    cdef Link *link = NULL
    if route != NULL:
        link = live_link(worker, route, 0)
    if (
        link == NULL or not link.has_preamble
        or route.policy != NULL and gate_turns_address_away(worker, address, route.policy) != NULL
        or worker.pressure >= PRESSURE_WORK
        or listener.visitor_count >= worker.options.udp_tunnel_visitors_max
        or atomic_load_relaxed(&worker.crew.udp_visitors) >= worker.options.udp_visitors_max
        or not admit_connection(worker, address)
    ):
        return NULL
    visitor = udp_table_add(listener, address, worker.now_us)
    if visitor == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    udp_local(batch, index, &visitor.local)
    if quota_is_limited(link.quota):
        if not enter_quota(link.quota, worker):
            udp_table_remove(visitor)
            return NULL
        visitor.quota = link.quota
    if not open_stream(visitor, link, route):
        leave_quota(visitor)
        udp_table_remove(visitor)
        return NULL
    visitor.link = link
    visitor.device = link.device
    visitor.route = route.id
    visitor.stats = stats_of(worker, route)
    route_stats_begin(visitor.stats)
    counter_add(&visitor.stats.connections, 1)
    listener.route = route.id
    request_id_write(role, visitor.request_id)
    if role.addresses.entries != NULL:
        visitor.address_entry = address_table_get(
            &role.addresses, address_key(address), worker.now_us
        )
    if visitor.address_entry != NULL:
        visitor.address_entry.connections += 1
    atomic_add(&worker.crew.udp_visitors, 1)
    count(worker.counters, COUNT_UDP_VISITORS, 1)
    return visitor


cdef bint open_stream(UdpVisitor *visitor, Link *link, const Route *route) noexcept nogil:
    cdef uint8_t preamble[PREAMBLE_TCP_SIZE_MAX]
    cdef ProxyEnd source, local
    cdef Address bound
    cdef uint32_t size
    memset(&source, 0, sizeof(source))
    memset(&local, 0, sizeof(local))
    source.size = <uint8_t>address_bytes(&visitor.address, source.bytes)
    source.port = address_port(&visitor.address)
    if socket_local_address(visitor.listener.conn.fd, &bound) == 0:
        if visitor.local.size and udp_is_wildcard(&bound):
            address_set(
                &bound, visitor.local.bytes, visitor.local.size, visitor.listener.port
            )
        local.size = <uint8_t>address_bytes(&bound, local.bytes)
        local.port = visitor.listener.port
    visitor.stream = pool_stream(link, route_profile(route))
    if visitor.stream == NULL:
        return False
    visitor.stream.owner = visitor
    visitor.stream.owner_kind = OWNER_UDP
    size = preamble_encode_udp(preamble, route_name(route), route.name_size, &source, &local)
    if yamux_stream_send(visitor.stream, preamble, size) < 0:
        count(link.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        yamux_stream_release(visitor.stream, YAMUX_RESET_CANCEL)
        return False
    return True


cdef bint udp_visitor_pays(UdpVisitor *visitor, uint32_t size) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    cdef Quota *quota = visitor.link.quota
    if not quota_has_bandwidth(quota):
        return True
    if worker.now_us < visitor.paid_us:
        return False
    visitor.paid_us = worker.now_us + quota_spend(
        quota, worker.now_us, size, worker.options.bandwidth_burst_ms
    )
    return True


cdef void udp_visitor_count(
    UdpVisitor *visitor, uint64_t bytes_in, uint64_t bytes_out
) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    visitor.bytes_in += bytes_in
    visitor.bytes_out += bytes_out
    route_stats_bytes(visitor.stats, bytes_in, bytes_out)
    count(worker.counters, COUNT_VISITOR_BYTES_IN, bytes_in)
    count(worker.counters, COUNT_VISITOR_BYTES_OUT, bytes_out)


cdef void udp_visitor_end(UdpVisitor *visitor, const char *reason) noexcept nogil:
    udp_visitor_reset(visitor, reason, YAMUX_RESET_CANCEL)


cdef void udp_visitor_reset(UdpVisitor *visitor, const char *reason, uint32_t code) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    yamux_stream_release(visitor.stream, code)
    link_touch(visitor.link)
    pool_wake(visitor.link)
    if visitor.address_entry != NULL:
        visitor.address_entry.connections -= 1
    leave_quota(visitor)
    atomic_subtract(&worker.crew.udp_visitors, 1)
    if reason[0]:
        counter_add(&visitor.stats.aborted, 1)
    route_stats_end(visitor.stats, 0)
    write_log(visitor, reason)
    udp_table_remove(visitor)


cdef void write_log(UdpVisitor *visitor, const char *reason) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    cdef LogHeader header
    cdef LogTexts texts
    cdef char address[ADDRESS_TEXT_SIZE]
    cdef char host[8]
    memset(&header, 0, sizeof(header))
    header.flags = LOG_UDP | LOG_TUNNEL
    if reason[0]:
        header.flags |= LOG_ABORTED
    header.address_size = <uint8_t>address_text(&visitor.address, address)
    header.host_size = <uint8_t>snprintf(
        host, sizeof(host), ":%u", <unsigned int>visitor.listener.port
    )
    header.method_size = 3
    header.request_id_size = REQUEST_ID_SIZE
    header.device = visitor.device
    header.route = visitor.route
    header.bytes_in = visitor.bytes_in
    header.bytes_out = visitor.bytes_out
    header.total_us = visitor.seen_us - visitor.started_us
    if visitor.accepted_us:
        header.first_byte_us = visitor.accepted_us - visitor.started_us
        header.link_us = visitor.link_us
        header.target_us = header.first_byte_us - visitor.link_us
    texts.request_id = visitor.request_id
    texts.address = address
    texts.method = b"UDP"
    texts.host = <const uint8_t *>host
    texts.path = b""
    texts.reason = reason
    texts.trace = NULL
    log_put(worker, &header, &texts)


cdef void udp_visitor_forget(UdpVisitor *visitor) noexcept nogil:
    route_stats_leave(visitor.stats)
    leave_quota(visitor)
    udp_table_remove(visitor)
