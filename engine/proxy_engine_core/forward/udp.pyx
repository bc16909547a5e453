# See udp.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport buffer_init, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_CUT_OFF, COUNT_MEMORY_ERRORS, COUNT_TUNNELS_TURNED_AWAY, COUNT_UDP_DATAGRAMS_IN,
    COUNT_UDP_DATAGRAMS_OUT, COUNT_UDP_DROPPED, COUNT_UDP_ERRORS, COUNT_UDP_OVERRUNS,
    COUNT_UDP_OVERSIZE, COUNT_UDP_REFUSED, count,
)
from proxy_engine_core.datagram cimport (
    DATAGRAM_HEADER_SIZE, DATAGRAM_SIZE_MAX, datagram_header, datagram_next,
)
from proxy_engine_core.forward.gate cimport gate_turns_address_away
from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.pool cimport pool_wake
from proxy_engine_core.forward.transaction cimport ServerRole, server_of
from proxy_engine_core.forward.udp_table cimport (
    UdpListener, UdpVisitor, UdpVisitorList, udp_table_find, udp_table_lasts, udp_table_seen,
)
from proxy_engine_core.forward.udp_visitor cimport (
    udp_visitor_count, udp_visitor_end, udp_visitor_forget, udp_visitor_open, udp_visitor_pays,
    udp_visitor_reset,
)
from proxy_engine_core.io.conn cimport conn_attach, conn_deadline, conn_detach, conn_requeue
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.socket cimport socket_close
from proxy_engine_core.io.udp cimport (
    UDP_BATCH, UdpInput, UdpOutput, udp_input_free, udp_input_new, udp_local, udp_output_put,
    udp_output_send, udp_output_size, udp_output_to, udp_overruns, udp_payload, udp_receive,
    udp_same_source, udp_size,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_HUP, CONN_READABLE, CONN_UDP_LISTENER, Conn, Worker, worker_random,
)
from proxy_engine_core.link.link cimport OWNER_UDP, RESET_LINK_LOST, Link, LinkHost, link_host
from proxy_engine_core.link.output cimport link_is_full, link_touch
from proxy_engine_core.yamux.send cimport (
    YAMUX_FRAME_PAYLOAD_MAX, yamux_stream_commit, yamux_stream_reserve, yamux_stream_rest,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_PROTOCOL, YAMUX_RESET_REFUSED, YAMUX_RESET_UNKNOWN_TUNNEL, YAMUX_RESET_UNREACHABLE,
    YamuxStream,
)
from proxy_engine_core.yamux.stream cimport yamux_stream_consume

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
        udp_visitor_end(visitors.oldest, b"")


cdef void listener_release(Conn *conn) noexcept nogil:
    # By worker_close_conns() there may be visitors left; their streams went with the links.
    cdef UdpListener *listener = <UdpListener *>conn
    forget_all(&listener.brief)
    forget_all(&listener.lasting)
    free(listener.buckets)
    free(listener)


cdef void forget_all(UdpVisitorList *visitors) noexcept nogil:
    while visitors.oldest != NULL:
        udp_visitor_forget(visitors.oldest)


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
            udp_visitor_end(visitor, b"")
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
            visitor = udp_visitor_open(listener, batch, start)
            if visitor != NULL:
                look_again(listener, worker.options.udp_brief_timeout_ms)
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
    if not udp_visitor_pays(visitor, size):
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
    udp_visitor_count(visitor, size - <uint32_t>(end - start) * DATAGRAM_HEADER_SIZE, 0)
    link_touch(visitor.link)


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
    cdef uint64_t passed = 0
    cdef int status
    udp_table_seen(visitor, worker.now_us)
    udp_output_to(batch, &visitor.address, &visitor.local)
    while True:
        status = datagram_next(&visitor.reader, &bytes, end, &payload, &length)
        if status <= 0:
            break
        passed += length
        udp_output_put(batch, payload, length)
        if batch.count == UDP_BATCH or visitor.reader.used:
            send_batch(visitor, batch)
    send_batch(visitor, batch)
    udp_visitor_count(visitor, 0, passed)
    if status < 0:
        udp_visitor_reset(visitor, b"bad_datagram", YAMUX_RESET_PROTOCOL)
        return
    if buffer_size(&visitor.reader.partial) and worker.pressure >= PRESSURE_WORK:
        count(worker.counters, COUNT_MEMORY_CUT_OFF, 1)
        udp_visitor_end(visitor, b"memory_short")
        return
    yamux_stream_consume(stream, <uint32_t>size)
    link_touch(link)


cdef void send_batch(UdpVisitor *visitor, UdpOutput *batch) noexcept nogil:
    cdef Worker *worker = visitor.listener.conn.worker
    cdef uint32_t total = batch.count, lost
    cdef int error
    if total == 0:
        return
    if not udp_visitor_pays(visitor, udp_output_size(batch)):
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
    cdef UdpVisitor *visitor = <UdpVisitor *>stream.owner
    visitor.accepted_us = link.conn.worker.now_us
    visitor.link_us = <uint32_t>min(link.rtt_us, visitor.accepted_us - visitor.started_us)
    pool_wake(link)


cdef void stream_finished(Link *link, YamuxStream *stream) noexcept nogil:
    udp_visitor_end(<UdpVisitor *>stream.owner, b"")


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
    udp_visitor_end(<UdpVisitor *>stream.owner, reason)


# --- the end ----------------------------------------------------------------------------

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
            udp_visitor_end(visitor, reason)
        visitor = following


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
        udp_visitor_end(visitors.oldest, b"")


cdef void look_again(UdpListener *listener, uint64_t after_ms) noexcept nogil:
    cdef uint64_t now_ms = listener.conn.worker.now_ms
    cdef uint64_t deadline_ms = listener.conn.timer.deadline_ms
    if deadline_ms <= now_ms or deadline_ms > now_ms + after_ms:
        conn_deadline(&listener.conn, after_ms)
