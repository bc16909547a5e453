# See udp_target.pxd.

from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from proxy_engine_core.agent.connect cimport next_entry, tell_target_failed
from proxy_engine_core.agent.role cimport AgentRole, agent_of
from proxy_engine_core.buffer cimport buffer_init
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_TARGETS_CONNECTED, COUNT_TARGETS_FAILED, COUNT_UDP_DATAGRAMS_IN,
    COUNT_UDP_DATAGRAMS_OUT, COUNT_UDP_DROPPED, COUNT_UDP_ERRORS, COUNT_UDP_OVERSIZE, count,
)
from proxy_engine_core.datagram cimport (
    DATAGRAM_HEADER_SIZE, DATAGRAM_SIZE_MAX, DatagramReader, datagram_header, datagram_next,
    datagram_reader_free, datagram_reader_init,
)
from proxy_engine_core.io.conn cimport (
    conn_attach, conn_close, conn_requeue, conn_wait,
)
from proxy_engine_core.io.udp cimport (
    UDP_BATCH, UdpInput, UdpOutput, udp_connect, udp_input_free, udp_input_new, udp_output_put,
    udp_output_send, udp_output_to, udp_payload, udp_receive, udp_size,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_HUP, CONN_READABLE, CONN_UDP_TARGET, Conn, Worker,
)
from proxy_engine_core.link.link cimport (
    OWNER_UDP_TARGET, Link, LinkHost, link_host, link_of,
)
from proxy_engine_core.link.output cimport (
    link_allowance, link_is_full, link_touch, link_turn_is_over,
)
from proxy_engine_core.yamux.send cimport (
    YAMUX_FRAME_PAYLOAD_MAX, yamux_stream_commit, yamux_stream_reserve, yamux_stream_rest,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_CANCEL, YAMUX_RESET_PROTOCOL, YAMUX_RESET_UNREACHABLE, YamuxStream,
)
from proxy_engine_core.yamux.stream cimport (
    yamux_stream_accept, yamux_stream_consume, yamux_stream_release,
)

cdef enum:
    READ_BUDGET = 256 * 1024              # bytes moved before others get a turn

cdef struct UdpTarget:
    Conn conn
    DatagramReader reader                 # of the stream
    YamuxStream *stream                   # NULL: given back
    uint32_t entry                        # of the role's table: the address in use
    uint32_t table_version                # ... of this version
    bint has_answered
    bint has_failed                       # Python was told


cdef void udp_target_init_worker(Worker *worker) noexcept nogil:
    cdef LinkHost *host = link_host(worker)
    worker.ops[<int>CONN_UDP_TARGET].ready = target_ready
    worker.ops[<int>CONN_UDP_TARGET].timeout = NULL       # the server ends what is silent
    worker.ops[<int>CONN_UDP_TARGET].flush = NULL
    worker.ops[<int>CONN_UDP_TARGET].sent = NULL
    worker.ops[<int>CONN_UDP_TARGET].release = target_release
    host.ops[<int>OWNER_UDP_TARGET].data = stream_data
    host.ops[<int>OWNER_UDP_TARGET].writable = stream_writable
    host.ops[<int>OWNER_UDP_TARGET].accepted = stream_writable    # never: we open none
    host.ops[<int>OWNER_UDP_TARGET].finished = stream_finished
    host.ops[<int>OWNER_UDP_TARGET].reset = stream_reset


cdef void udp_target_free(AgentRole *role) noexcept nogil:
    udp_input_free(role.udp_input)
    free(role.udp_output)


# --- opening ----------------------------------------------------------------------------

cdef bint have_batches(AgentRole *role) noexcept nogil:
    if role.udp_input == NULL:
        role.udp_input = udp_input_new()
    if role.udp_output == NULL:
        role.udp_output = <UdpOutput *>calloc(1, sizeof(UdpOutput))
    return role.udp_input != NULL and role.udp_output != NULL


cdef UdpTarget *target_new(Worker *worker, uint32_t entry, int *error) noexcept nogil:
    """A socket connected to the entry's address; NULL: *error tells."""
    cdef AgentRole *role = agent_of(worker)
    cdef UdpTarget *target = NULL
    cdef int fd
    if have_batches(role):
        target = <UdpTarget *>calloc(1, sizeof(UdpTarget))
    if target == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        error[0] = ENOMEM
        return NULL
    buffer_init(&target.conn.out, &worker.pool, 0)
    datagram_reader_init(&target.reader, &worker.pool)
    fd = udp_connect(&role.targets[entry].address)
    if fd >= 0:
        fd = conn_attach(worker, &target.conn, fd, CONN_UDP_TARGET)
    if fd < 0:
        free(target)
        error[0] = -fd
        return NULL
    target.entry = entry
    target.table_version = role.table_version
    role.open_targets += 1
    return target


cdef void target_take(UdpTarget *target, YamuxStream *stream) noexcept nogil:
    target.stream = stream
    stream.owner = target
    stream.owner_kind = OWNER_UDP_TARGET


cdef void udp_target_open(
    YamuxStream *stream, uint32_t entry, uint8_t *bytes, uint32_t size
) noexcept nogil:
    cdef Link *link = link_of(stream)
    cdef Worker *worker = link.conn.worker
    cdef AgentRole *role = agent_of(worker)
    cdef int error = 0, following = <int>entry
    cdef UdpTarget *target = NULL
    link_touch(link)
    while target == NULL and following >= 0:
        entry = <uint32_t>following
        target = target_new(worker, entry, &error)
        following = next_entry(role, entry)
    if target == NULL:
        tell_failed(worker, entry, error)
        yamux_stream_release(stream, YAMUX_RESET_UNREACHABLE)
        return
    target_take(target, stream)
    count(worker.counters, COUNT_TARGETS_CONNECTED, 1)
    yamux_stream_accept(stream, link.session.window_start)
    if size:
        stream_data(link, stream, bytes, size)


cdef void tell_failed(Worker *worker, uint32_t index, int error) noexcept nogil:
    count(worker.counters, COUNT_TARGETS_FAILED, 1)
    tell_target_failed(worker, &agent_of(worker).targets[index], error, NULL)


cdef void target_failed(UdpTarget *target, int error) noexcept nogil:
    """ICMP says that nobody is there. The target may be another one afterwards."""
    cdef Worker *worker = target.conn.worker
    cdef AgentRole *role = agent_of(worker)
    cdef UdpTarget *successor = NULL
    cdef int following = -1, unused
    count(worker.counters, COUNT_UDP_ERRORS, 1)
    if target.has_answered or target.has_failed or target.table_version != role.table_version:
        return
    following = next_entry(role, target.entry)
    while following >= 0 and successor == NULL:
        successor = target_new(worker, <uint32_t>following, &unused)
        if successor == NULL:
            following = next_entry(role, <uint32_t>following)
    if successor == NULL:
        target.has_failed = True
        tell_failed(worker, target.entry, error)
        return
    successor.reader = target.reader
    datagram_reader_init(&target.reader, &worker.pool)
    target_take(successor, target.stream)
    target.stream = NULL
    conn_close(&target.conn)


cdef void target_end(UdpTarget *target, uint32_t code) noexcept nogil:
    cdef Link *link = link_of(target.stream)
    yamux_stream_release(target.stream, code)
    target.stream = NULL
    link_touch(link)
    conn_close(&target.conn)


cdef void target_release(Conn *conn) noexcept nogil:
    cdef UdpTarget *target = <UdpTarget *>conn
    agent_of(conn.worker).open_targets -= 1
    datagram_reader_free(&target.reader)
    free(target)


# --- from the stream ------------------------------------------------------------------------

cdef void stream_data(
    Link *link, YamuxStream *stream, uint8_t *bytes, size_t size
) noexcept nogil:
    cdef UdpTarget *target = <UdpTarget *>stream.owner
    cdef UdpOutput *batch = agent_of(link.conn.worker).udp_output
    cdef uint8_t *end = bytes + size
    cdef uint8_t *payload
    cdef uint32_t length
    cdef int status, error = 0
    udp_output_to(batch, NULL, NULL)
    while True:
        status = datagram_next(&target.reader, &bytes, end, &payload, &length)
        if status <= 0:
            break
        udp_output_put(batch, payload, length)
        if batch.count == UDP_BATCH or target.reader.used:
            send_batch(target, batch, &error)
    send_batch(target, batch, &error)
    if status < 0:
        target_end(target, YAMUX_RESET_PROTOCOL)
        return
    yamux_stream_consume(stream, <uint32_t>size)
    link_touch(link)
    if error:
        target_failed(target, error)


cdef void send_batch(UdpTarget *target, UdpOutput *batch, int *error) noexcept nogil:
    cdef Worker *worker = target.conn.worker
    cdef uint32_t total = batch.count, lost
    cdef int found
    if total == 0:
        return
    lost = udp_output_send(target.conn.fd, batch, &found)
    count(worker.counters, COUNT_UDP_DATAGRAMS_OUT, total - lost)
    count(worker.counters, COUNT_UDP_DROPPED, lost)
    if found:
        error[0] = found


cdef void stream_writable(Link *link, YamuxStream *stream) noexcept nogil:
    conn_requeue(&(<UdpTarget *>stream.owner).conn)


cdef void stream_finished(Link *link, YamuxStream *stream) noexcept nogil:
    target_end(<UdpTarget *>stream.owner, YAMUX_RESET_CANCEL)


cdef void stream_reset(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil:
    target_end(<UdpTarget *>stream.owner, YAMUX_RESET_CANCEL)


# --- from the target ------------------------------------------------------------------------

cdef void target_ready(Conn *conn) noexcept nogil:
    cdef UdpTarget *target = <UdpTarget *>conn
    cdef Worker *worker = conn.worker
    cdef YamuxStream *stream = target.stream
    cdef Link *link = link_of(stream)
    cdef UdpInput *batch = agent_of(worker).udp_input
    cdef int received
    cdef uint32_t moved = 0
    conn.flags &= ~(CONN_HUP | CONN_BROKEN)           # an error of a datagram, not of the socket
    while conn.flags & CONN_READABLE:
        if link_is_full(link, stream) or link_turn_is_over(link, moved):
            conn_wait(conn, &link.waiting)
            return
        if moved >= READ_BUDGET:
            conn_requeue(conn)
            return
        if stream.send_window < DATAGRAM_HEADER_SIZE + DATAGRAM_SIZE_MAX:
            return                        # a larger window wakes us
        received = udp_receive(conn, batch)
        if received > 0:
            target.has_answered = True
            count(worker.counters, COUNT_UDP_DATAGRAMS_IN, <uint64_t>received)
            moved += forward_batch(target, batch, received)
        elif received != -EAGAIN:
            target_failed(target, -received)
            if conn.flags & CONN_CLOSED:
                return
    yamux_stream_rest(stream)


cdef uint32_t forward_batch(
    UdpTarget *target, const UdpInput *batch, int total
) noexcept nogil:
    """Put them on the stream, as many in a frame as may be; the bytes moved."""
    cdef Worker *worker = target.conn.worker
    cdef YamuxStream *stream = target.stream
    cdef Link *link = link_of(stream)
    cdef uint32_t size, most, run_size, moved = 0
    cdef int start = 0, end
    while start < total:
        # At least one, however little room others leave.
        most = min(link_allowance(link, stream), YAMUX_FRAME_PAYLOAD_MAX)
        run_size = 0
        end = start
        while end < total:
            size = DATAGRAM_HEADER_SIZE + udp_size(batch, end)
            if size > DATAGRAM_HEADER_SIZE + DATAGRAM_SIZE_MAX or (
                run_size + size > (most if run_size else stream.send_window)
            ):
                break
            run_size += size
            end += 1
        if end == start:
            if udp_size(batch, start) > DATAGRAM_SIZE_MAX:
                count(worker.counters, COUNT_UDP_OVERSIZE, 1)
            else:
                count(worker.counters, COUNT_UDP_DROPPED, 1)
            start += 1
            continue
        if not send_run(stream, batch, start, end, run_size):
            count(worker.counters, COUNT_MEMORY_ERRORS, 1)
            count(worker.counters, COUNT_UDP_DROPPED, <uint64_t>(end - start))
        moved += run_size
        start = end
    link_touch(link)
    return moved


cdef bint send_run(
    YamuxStream *stream, const UdpInput *batch, int start, int end, uint32_t size
) noexcept nogil:
    cdef uint8_t *place = yamux_stream_reserve(stream, size)
    cdef int index
    if place == NULL:
        return False
    for index in range(start, end):
        place = datagram_header(place, udp_size(batch, index))
        memcpy(place, udp_payload(batch, index), udp_size(batch, index))
        place += udp_size(batch, index)
    yamux_stream_commit(stream, size)
    return True
