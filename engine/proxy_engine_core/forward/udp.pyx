# See udp.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from proxy_engine_core.atomic cimport atomic_add, atomic_load_relaxed, atomic_subtract
from proxy_engine_core.buffer cimport buffer_init, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_CUT_OFF, COUNT_MEMORY_ERRORS, COUNT_TOKEN_BUSY_REFUSED, COUNT_TOKEN_RATE_REFUSED,
    COUNT_TUNNELS_TURNED_AWAY, COUNT_UDP_DATAGRAMS_IN, COUNT_UDP_DATAGRAMS_OUT, COUNT_UDP_DROPPED,
    COUNT_UDP_ERRORS, COUNT_UDP_OVERRUNS, COUNT_UDP_OVERSIZE, COUNT_UDP_REFUSED,
    COUNT_UDP_VISITORS, COUNT_VISITOR_BYTES_IN, COUNT_VISITOR_BYTES_OUT, count,
)
from proxy_engine_core.datagram cimport (
    DATAGRAM_HEADER_SIZE, DATAGRAM_SIZE_MAX, datagram_header, datagram_next,
)
from proxy_engine_core.forward.addresses cimport address_key, address_table_get
from proxy_engine_core.forward.admission cimport admit_connection
from proxy_engine_core.forward.gate cimport gate_turns_address_away
from proxy_engine_core.forward.log cimport LogHeader, LogTexts, log_put
from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.pool cimport pool_stream, pool_wake
from proxy_engine_core.forward.request_id cimport REQUEST_ID_SIZE, request_id_write
from proxy_engine_core.forward.route cimport Route, route_name, route_table_find
from proxy_engine_core.forward.routing cimport live_link
from proxy_engine_core.forward.transaction cimport (
    LOG_ABORTED, LOG_TUNNEL, LOG_UDP, ServerRole, server_of,
)
from proxy_engine_core.forward.udp_table cimport (
    UdpListener, UdpVisitor, UdpVisitorList, udp_table_add, udp_table_find, udp_table_lasts,
    udp_table_remove, udp_table_seen,
)
from proxy_engine_core.io.conn cimport conn_attach, conn_deadline, conn_detach, conn_requeue
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.socket cimport (
    ADDRESS_TEXT_SIZE, Address, address_bytes, address_port, address_set, address_text,
    socket_close, socket_local_address,
)
from proxy_engine_core.io.udp cimport (
    UDP_BATCH, UdpInput, UdpOutput, udp_input_free, udp_input_new, udp_is_wildcard, udp_local,
    udp_output_put, udp_output_send, udp_output_size, udp_output_to, udp_overruns, udp_payload,
    udp_receive, udp_same_source, udp_size,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_HUP, CONN_READABLE, CONN_UDP_LISTENER, Conn, Worker, worker_random,
)
from proxy_engine_core.link.link cimport (
    OWNER_UDP, RESET_LINK_LOST, Link, LinkHost, link_host,
)
from proxy_engine_core.link.output cimport link_is_full, link_touch
from proxy_engine_core.proxy_protocol cimport (
    PREAMBLE_TCP_SIZE_MAX, ProxyEnd, preamble_encode_udp,
)
from proxy_engine_core.quota cimport (
    Quota, quota_enter, quota_has_bandwidth, quota_is_limited, quota_leave, quota_spend,
    quota_take_request,
)
from proxy_engine_core.yamux.send cimport (
    YAMUX_FRAME_PAYLOAD_MAX, yamux_stream_commit, yamux_stream_reserve, yamux_stream_rest,
    yamux_stream_send,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_CANCEL, YAMUX_RESET_PROTOCOL, YAMUX_RESET_REFUSED, YAMUX_RESET_UNKNOWN_TUNNEL,
    YAMUX_RESET_UNREACHABLE, YamuxStream,
)
from proxy_engine_core.yamux.stream cimport yamux_stream_consume, yamux_stream_release

cdef enum:
    BATCHES_MAX = 4                       # read before others have their turn
    REST_US = 1000                        # after this much silence a datagram passes bulk again


cdef void udp_init_worker(Worker *worker) noexcept nogil:
    cdef LinkHost *host = link_host(worker)
    worker.ops[<int>CONN_UDP_LISTENER].ready = listener_ready
    worker.ops[<int>CONN_UDP_LISTENER].timeout = listener_timeout
    worker.ops[<int>CONN_UDP_LISTENER].flush = NULL
    worker.ops[<int>CONN_UDP_LISTENER].sent = NULL
    worker.ops[<int>CONN_UDP_LISTENER].release = listener_release
    host.ops[<int>OWNER_UDP].data = stream_data
    host.ops[<int>OWNER_UDP].writable = nothing
    host.ops[<int>OWNER_UDP].accepted = stream_accepted
    host.ops[<int>OWNER_UDP].finished = stream_finished
    host.ops[<int>OWNER_UDP].reset = stream_reset


cdef void udp_free(ServerRole *role) noexcept nogil:
    udp_input_free(role.udp_input)
    free(role.udp_output)


# --- listeners --------------------------------------------------------------------------

cdef void udp_listen(Worker *worker, int fd, uint16_t port) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    cdef UdpListener *listener = <UdpListener *>calloc(1, sizeof(UdpListener))
    if role.udp_input == NULL:
        role.udp_input = udp_input_new()
    if role.udp_output == NULL:
        role.udp_output = <UdpOutput *>calloc(1, sizeof(UdpOutput))
    if listener == NULL or role.udp_input == NULL or role.udp_output == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        free(listener)
        socket_close(fd)
        return
    listener.port = port
    listener.seed = worker_random(worker)
    listener.overruns_seen = udp_overruns(fd)
    buffer_init(&listener.conn.out, &worker.pool, 0)
    if conn_attach(worker, &listener.conn, fd, CONN_UDP_LISTENER) < 0:
        free(listener)


cdef void close_listener(UdpListener *listener) noexcept nogil:
    end_all(&listener.brief)
    end_all(&listener.lasting)
    count_overruns(listener)
    # Others have descriptors of the same socket, so a close alone would leave it in the epoll set.
    socket_close(conn_detach(&listener.conn))


cdef void end_all(UdpVisitorList *visitors) noexcept nogil:
    while visitors.oldest != NULL:
        visitor_end(visitors.oldest, b"")


cdef void listener_release(Conn *conn) noexcept nogil:
    # By worker_close_conns() there may be visitors left; their streams went with the links.
    cdef UdpListener *listener = <UdpListener *>conn
    forget_all(&listener.brief)
    forget_all(&listener.lasting)
    free(listener.buckets)
    free(listener)


cdef void forget_all(UdpVisitorList *visitors) noexcept nogil:
    while visitors.oldest != NULL:
        leave_quota(visitors.oldest)
        udp_table_remove(visitors.oldest)


cdef void udp_close(Worker *worker, uint16_t port) noexcept nogil:
    cdef uint32_t slot
    cdef Conn *conn
    for slot in range(worker.slot_count):
        conn = worker.conns[slot]
        if conn != NULL and conn.kind == CONN_UDP_LISTENER and (<UdpListener *>conn).port == port:
            close_listener(<UdpListener *>conn)


cdef void udp_close_all(Worker *worker) noexcept nogil:
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_UDP_LISTENER:
            close_listener(<UdpListener *>worker.conns[slot])


cdef void udp_flush(const Link *link, uint32_t route) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef UdpListener *listener
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if worker.conns[slot] == NULL or worker.conns[slot].kind != CONN_UDP_LISTENER:
            continue
        listener = <UdpListener *>worker.conns[slot]
        if listener.route == route:
            end_those_of(&listener.brief, link)
            end_those_of(&listener.lasting, link)


cdef void end_those_of(UdpVisitorList *visitors, const Link *link) noexcept nogil:
    cdef UdpVisitor *visitor = visitors.oldest
    cdef UdpVisitor *following
    while visitor != NULL:
        following = visitor.newer
        if visitor.link == link:
            visitor_end(visitor, b"")
        visitor = following


cdef void count_overruns(UdpListener *listener) noexcept nogil:
    cdef uint32_t seen = udp_overruns(listener.conn.fd)
    count(listener.conn.worker.counters, COUNT_UDP_OVERRUNS, seen - listener.overruns_seen)
    listener.overruns_seen = seen


cdef void listener_ready(Conn *conn) noexcept nogil:
    cdef UdpListener *listener = <UdpListener *>conn
    cdef UdpInput *batch = server_of(conn.worker).udp_input
    cdef int received, _batch
    conn.flags &= ~(CONN_HUP | CONN_BROKEN)           # an error of a datagram, not of the socket
    for _batch in range(BATCHES_MAX):
        if not conn.flags & CONN_READABLE:
            return
        received = udp_receive(conn, batch)
        if received > 0:
            count(conn.worker.counters, COUNT_UDP_DATAGRAMS_IN, <uint64_t>received)
            forward_batch(listener, batch, received)
        elif received != -EAGAIN:
            count(conn.worker.counters, COUNT_UDP_ERRORS, 1)
    # So many at once: some may have found no room.
    count_overruns(listener)
    if conn.flags & CONN_READABLE:
        conn_requeue(conn)


# --- from visitors ----------------------------------------------------------------------

cdef void forward_batch(UdpListener *listener, const UdpInput *batch, int total) noexcept nogil:
    """Neighbours of one visitor leave in one frame."""
    cdef Worker *worker = listener.conn.worker
    cdef UdpVisitor *visitor
    cdef uint32_t size, run_size
    cdef int start = 0, end
    while start < total:
        run_size = 0
        end = start
        while end < total and (end == start or udp_same_source(batch, start, end)):
            size = udp_size(batch, end)
            if size > DATAGRAM_SIZE_MAX or (
                run_size + DATAGRAM_HEADER_SIZE + size > YAMUX_FRAME_PAYLOAD_MAX
            ):
                break
            run_size += DATAGRAM_HEADER_SIZE + size
            end += 1
        if end == start:
            count(worker.counters, COUNT_UDP_OVERSIZE, 1)
            start += 1
            continue
        visitor = udp_table_find(listener, &batch.addresses[start])
        if visitor == NULL:
            visitor = visitor_open(listener, batch, start)
        if visitor == NULL:
            count(worker.counters, COUNT_UDP_REFUSED, <uint64_t>(end - start))
        else:
            send_run(visitor, batch, start, end, run_size)
        start = end


cdef void send_run(
    UdpVisitor *visitor, const UdpInput *batch, int start, int end, uint32_t size
) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    cdef YamuxStream *stream = visitor.stream
    cdef uint8_t *place
    cdef int index
    if worker.now_us - visitor.received_us >= REST_US:
        yamux_stream_rest(stream)
    if visitor.received_us:
        udp_table_lasts(visitor)
    visitor.received_us = worker.now_us
    udp_table_seen(visitor, worker.now_us)
    udp_local(batch, start, &visitor.local)
    if not is_paid(visitor, size):
        count(worker.counters, COUNT_UDP_DROPPED, <uint64_t>(end - start))
        return
    while end > start and (size > stream.send_window or link_is_full(visitor.link, stream)):
        end -= 1
        size -= DATAGRAM_HEADER_SIZE + udp_size(batch, end)
        count(worker.counters, COUNT_UDP_DROPPED, 1)
    if end == start:
        return
    place = yamux_stream_reserve(stream, size)
    if place == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        count(worker.counters, COUNT_UDP_DROPPED, <uint64_t>(end - start))
        return
    for index in range(start, end):
        place = datagram_header(place, udp_size(batch, index))
        memcpy(place, udp_payload(batch, index), udp_size(batch, index))
        place += udp_size(batch, index)
    yamux_stream_commit(stream, size)
    visitor.bytes_in += size - <uint32_t>(end - start) * DATAGRAM_HEADER_SIZE
    link_touch(visitor.link)


cdef bint is_paid(UdpVisitor *visitor, uint32_t size) noexcept nogil:
    """Whether so many bytes may pass by the quota of the link. Here nobody waits: in debt, what
    comes is lost."""
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


cdef UdpVisitor *visitor_open(
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
    look_again(listener, worker.options.udp_brief_timeout_ms)
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
    visitor.stream = pool_stream(link)
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


# --- to visitors ------------------------------------------------------------------------

cdef void stream_data(
    Link *link, YamuxStream *stream, uint8_t *bytes, size_t size
) noexcept nogil:
    cdef UdpVisitor *visitor = <UdpVisitor *>stream.owner
    cdef Worker *worker = link.conn.worker
    cdef UdpOutput *batch = server_of(worker).udp_output
    cdef uint8_t *end = bytes + size
    cdef uint8_t *payload
    cdef uint32_t length
    cdef int status
    udp_table_seen(visitor, worker.now_us)
    udp_output_to(batch, &visitor.address, &visitor.local)
    while True:
        status = datagram_next(&visitor.reader, &bytes, end, &payload, &length)
        if status <= 0:
            break
        visitor.bytes_out += length
        udp_output_put(batch, payload, length)
        if batch.count == UDP_BATCH or visitor.reader.used:
            send_batch(visitor, batch)
    send_batch(visitor, batch)
    if status < 0:
        visitor_reset(visitor, b"bad_datagram", YAMUX_RESET_PROTOCOL)
        return
    if buffer_size(&visitor.reader.partial) and worker.pressure >= PRESSURE_WORK:
        count(worker.counters, COUNT_MEMORY_CUT_OFF, 1)
        visitor_end(visitor, b"memory_short")
        return
    yamux_stream_consume(stream, <uint32_t>size)
    link_touch(link)


cdef void send_batch(UdpVisitor *visitor, UdpOutput *batch) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    cdef uint32_t total = batch.count, lost
    cdef int error
    if total == 0:
        return
    if not is_paid(visitor, udp_output_size(batch)):
        batch.count = 0
        count(worker.counters, COUNT_UDP_DROPPED, total)
        return
    lost = udp_output_send(visitor.listener.conn.fd, batch, &error)
    count(worker.counters, COUNT_UDP_DATAGRAMS_OUT, total - lost)
    count(worker.counters, COUNT_UDP_DROPPED, lost)
    if error:
        count(worker.counters, COUNT_UDP_ERRORS, 1)


cdef void nothing(Link *link, YamuxStream *stream) noexcept nogil:
    pass


cdef void stream_accepted(Link *link, YamuxStream *stream) noexcept nogil:
    (<UdpVisitor *>stream.owner).accepted_us = link.conn.worker.now_us
    pool_wake(link)


cdef void stream_finished(Link *link, YamuxStream *stream) noexcept nogil:
    visitor_end(<UdpVisitor *>stream.owner, b"")


cdef void stream_reset(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil:
    cdef const char *reason = b"target_lost"
    if code == RESET_LINK_LOST:
        reason = b"link_lost"
    elif code == YAMUX_RESET_REFUSED:
        reason = b"refused"
    elif code == YAMUX_RESET_UNREACHABLE:
        reason = b"unreachable"
    elif code == YAMUX_RESET_UNKNOWN_TUNNEL:
        reason = b"unknown_target"
    visitor_end(<UdpVisitor *>stream.owner, reason)


# --- the end ----------------------------------------------------------------------------

cdef void visitor_end(UdpVisitor *visitor, const char *reason) noexcept nogil:
    visitor_reset(visitor, reason, YAMUX_RESET_CANCEL)


cdef void visitor_reset(UdpVisitor *visitor, const char *reason, uint32_t code) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    yamux_stream_release(visitor.stream, code)
    link_touch(visitor.link)
    pool_wake(visitor.link)
    if visitor.address_entry != NULL:
        visitor.address_entry.connections -= 1
    leave_quota(visitor)
    atomic_subtract(&worker.crew.udp_visitors, 1)
    count(worker.counters, COUNT_VISITOR_BYTES_IN, visitor.bytes_in)
    count(worker.counters, COUNT_VISITOR_BYTES_OUT, visitor.bytes_out)
    write_log(visitor, reason)
    udp_table_remove(visitor)


cdef void udp_recheck(UdpListener *listener, const Policy *policy) noexcept nogil:
    recheck_list(&listener.brief, policy)
    recheck_list(&listener.lasting, policy)


cdef void recheck_list(UdpVisitorList *visitors, const Policy *policy) noexcept nogil:
    cdef UdpVisitor *visitor = visitors.oldest
    cdef UdpVisitor *following
    cdef const char *reason
    while visitor != NULL:
        following = visitor.newer
        reason = gate_turns_address_away(
            visitor.listener.conn.worker, &visitor.address, policy
        )
        if reason != NULL:
            count(visitor.listener.conn.worker.counters, COUNT_TUNNELS_TURNED_AWAY, 1)
            visitor_end(visitor, reason)
        visitor = following


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
        header.target_us = header.first_byte_us
    texts.request_id = visitor.request_id
    texts.address = address
    texts.method = b"UDP"
    texts.host = <const uint8_t *>host
    texts.path = b""
    texts.reason = reason
    log_put(worker, &header, &texts)


cdef void listener_timeout(Conn *conn) noexcept nogil:
    cdef UdpListener *listener = <UdpListener *>conn
    end_silent(listener, &listener.brief, conn.worker.options.udp_brief_timeout_ms)
    end_silent(listener, &listener.lasting, conn.worker.options.udp_timeout_ms)


cdef void end_silent(
    UdpListener *listener, UdpVisitorList *visitors, uint64_t timeout_ms
) noexcept nogil:
    """Those who were silent for so long; come back for the next one."""
    cdef uint64_t now_us = listener.conn.worker.now_us
    cdef uint64_t silent_ms
    while visitors.oldest != NULL:
        silent_ms = (now_us - visitors.oldest.seen_us) // 1000
        if silent_ms < timeout_ms:
            look_again(listener, timeout_ms - silent_ms)
            return
        visitor_end(visitors.oldest, b"")


cdef void look_again(UdpListener *listener, uint64_t after_ms) noexcept nogil:
    cdef uint64_t now_ms = listener.conn.worker.now_ms
    cdef uint64_t deadline_ms = listener.conn.timer.deadline_ms
    if deadline_ms <= now_ms or deadline_ms > now_ms + after_ms:
        conn_deadline(&listener.conn, after_ms)
