# See target.pxd. Backpressure: towards the target, credit is granted only for what its
# socket took; from the target, nothing is read without window and room in the link.

from libc.errno cimport EAGAIN, ETIMEDOUT
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.agent.connect cimport (
    TargetConn, reset_code, target_conn_failed, target_conn_free, target_conn_init,
    target_conn_start, target_conn_step,
)
from proxy_engine_core.agent.role cimport agent_of, find_entry
from proxy_engine_core.agent.udp_target cimport udp_target_open
from proxy_engine_core.buffer cimport (
    Buffer, buffer_append, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_MEMORY_ERRORS, COUNT_MEMORY_REFUSED, COUNT_STREAMS_OPENED, COUNT_TIMEOUTS, count,
)
from proxy_engine_core.io.acks cimport Acks, acks_read, acks_wrote
from proxy_engine_core.io.conn cimport (
    conn_abort, conn_close, conn_finish_writing, conn_flush_out, conn_gather, conn_owed, conn_recv,
    conn_requeue, conn_wait, gather_flush,
)
from proxy_engine_core.io.parting cimport conn_part
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.profile cimport profile_get
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_READABLE, CONN_TARGET, Conn, Worker,
)
from proxy_engine_core.link.link cimport (
    OWNER_TARGET, RESET_LINK_LOST, Link, LinkHost, link_host, link_of,
)
from proxy_engine_core.link.output cimport (
    link_allowance, link_is_full, link_touch, link_turn_is_over,
)
from proxy_engine_core.messages cimport TARGET_PROXY_HEADER, TARGET_TCP, TARGET_UDP
from proxy_engine_core.proxy_protocol cimport Preamble, preamble_decode
from proxy_engine_core.yamux.send cimport (
    yamux_stream_commit, yamux_stream_finish, yamux_stream_reserve, yamux_stream_rest,
)
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_CANCEL, YAMUX_RESET_PROTOCOL, YAMUX_RESET_REFUSED, YAMUX_RESET_TARGET_LOST,
    YAMUX_RESET_UNKNOWN_TUNNEL, YamuxStream,
)
from proxy_engine_core.yamux.stream cimport (
    yamux_stream_accept, yamux_stream_consume, yamux_stream_release,
)

cdef enum TargetState:
    TARGET_PREAMBLE = 0
    TARGET_CONNECTING
    TARGET_OPEN

cdef enum:
    READ_BUDGET = 256 * 1024              # bytes moved before others get a turn

cdef struct Target:
    TargetConn base                       # must be first
    Buffer preamble                       # a split one
    YamuxStream *stream                   # NULL: given back
    uint8_t flags                         # of the entry
    uint8_t state
    Acks acks
    bint target_done                      # the target finished writing
    bint stream_done                      # the visitor's side did


cdef void target_init_worker(Worker *worker) noexcept nogil:
    cdef LinkHost *host = link_host(worker)
    worker.ops[<int>CONN_TARGET].ready = target_ready
    worker.ops[<int>CONN_TARGET].timeout = target_timeout
    worker.ops[<int>CONN_TARGET].flush = NULL
    worker.ops[<int>CONN_TARGET].sent = target_sent
    worker.ops[<int>CONN_TARGET].release = target_release
    host.ops[<int>OWNER_TARGET].data = stream_data
    host.ops[<int>OWNER_TARGET].writable = stream_writable
    host.ops[<int>OWNER_TARGET].accepted = stream_writable     # never: we open none
    host.ops[<int>OWNER_TARGET].finished = stream_finished
    host.ops[<int>OWNER_TARGET].reset = stream_reset


# --- opening ----------------------------------------------------------------------------

cdef Target *target_new(Worker *worker, YamuxStream *stream) noexcept nogil:
    cdef Target *target = <Target *>calloc(1, sizeof(Target))
    if target == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    target_conn_init(&target.base, worker, CONN_TARGET)
    buffer_init(&target.preamble, &worker.pool, 0)
    target.stream = stream
    stream.owner = target
    stream.owner_kind = OWNER_TARGET
    return target


cdef void target_open(Link *link, YamuxStream *stream) noexcept nogil:
    if link.conn.worker.pressure >= PRESSURE_WORK:
        count(link.conn.worker.counters, COUNT_MEMORY_REFUSED, 1)
        yamux_stream_release(stream, YAMUX_RESET_REFUSED)
        link_touch(link)
        return
    if target_new(link.conn.worker, stream) == NULL:
        yamux_stream_release(stream, YAMUX_RESET_REFUSED)
        link_touch(link)
        return
    count(link.conn.worker.counters, COUNT_STREAMS_OPENED, 1)


cdef void stream_give_back(Target *target, uint32_t code) noexcept nogil:
    cdef Link *link
    if target.stream != NULL:
        link = link_of(target.stream)
        yamux_stream_release(target.stream, code)
        target.stream = NULL
        link_touch(link)


cdef void target_end(Target *target, uint32_t code) noexcept nogil:
    """Give the stream back (reset with `code` unless both sides are done) and close."""
    stream_give_back(target, code)
    if target.base.conn.fd < 0:
        target_release(&target.base.conn)      # never had a connection
    else:
        conn_close(&target.base.conn)


cdef void target_release(Conn *conn) noexcept nogil:
    cdef Target *target = <Target *>conn
    buffer_free(&target.preamble)
    target_conn_free(&target.base)
    free(target)


cdef void target_connect(Target *target) noexcept nogil:
    """Connect to the entry's address; on failure to the next one of the same tunnel."""
    cdef int error
    target.state = TARGET_CONNECTING
    error = target_conn_start(&target.base)
    if error < 0:
        connect_failed(target, -error)


cdef void connect_failed(Target *target, int error) noexcept nogil:
    cdef Worker *worker = target.base.conn.worker
    cdef Target *successor
    cdef int following = target_conn_failed(&target.base, error)
    if following >= 0:
        successor = target_new(worker, target.stream)
        if successor != NULL:
            # A closed connection keeps its slot to the end of the turn, so the next
            # address gets a Target of its own, with the bytes that wait.
            successor.base.conn.out = target.base.conn.out
            buffer_init(&target.base.conn.out, &worker.pool, 0)
            successor.stream_done = target.stream_done
            successor.base.entry = <uint32_t>following
            successor.base.profile = target.base.profile
            successor.flags = target.flags
            target.stream = NULL
            target_end(target, 0)
            target_connect(successor)
            return
    target_end(target, reset_code(error))


cdef bint take_preamble(Target *target, uint8_t **bytes, size_t *size) noexcept nogil:
    """Read the preamble off the front of [*bytes, *size); True: the target is to be
    connected, False: it is not, or the stream has another owner."""
    cdef Preamble preamble
    cdef Worker *worker = target.base.conn.worker
    cdef uint8_t *head = bytes[0]
    cdef uint32_t before = buffer_size(&target.preamble)
    cdef uint32_t head_size = <uint32_t>size[0]
    cdef int used, entry
    if before:
        if buffer_append(&target.preamble, bytes[0], <uint32_t>size[0]) < 0:
            target_end(target, YAMUX_RESET_REFUSED)
            return False
        head = buffer_head(&target.preamble)
        head_size = buffer_size(&target.preamble)
    used = preamble_decode(head, head_size, &preamble)
    if used < 0 or (used > 0 and preamble.tunnel == NULL):
        target_end(target, YAMUX_RESET_PROTOCOL)
        return False
    if used == 0:
        if before == 0 and buffer_append(&target.preamble, head, head_size) < 0:
            target_end(target, YAMUX_RESET_REFUSED)
        return False
    entry = find_entry(agent_of(worker), preamble.tunnel, preamble.tunnel_size, 0)
    if entry < 0:
        target_end(target, YAMUX_RESET_UNKNOWN_TUNNEL)
        return False
    target.base.entry = <uint32_t>entry
    target.base.profile = profile_get(preamble.profile)
    target.flags = agent_of(worker).targets[entry].flags
    if preamble.is_datagram != ((target.flags & TARGET_UDP) != 0):
        target_end(target, YAMUX_RESET_PROTOCOL)
        return False
    if target.flags & TARGET_PROXY_HEADER and buffer_append(
        &target.base.conn.out, head, <uint32_t>used
    ) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        target_end(target, YAMUX_RESET_REFUSED)
        return False
    bytes[0] += used - before
    size[0] -= used - before
    buffer_free(&target.preamble)
    yamux_stream_consume(target.stream, <uint32_t>used)
    if target.flags & TARGET_UDP:
        udp_target_open(target.stream, target.base.entry, bytes[0], <uint32_t>size[0])
        target.stream = NULL
        target_end(target, 0)
        return False
    return True


# --- from the stream ------------------------------------------------------------------------

cdef void stream_data(
    Link *link, YamuxStream *stream, uint8_t *bytes, size_t size
) noexcept nogil:
    cdef Target *target = <Target *>stream.owner
    if target.state == TARGET_PREAMBLE:
        if not take_preamble(target, &bytes, &size):
            return
        # Queued before the connect starts: a failing one may hand the bytes on.
        if size and buffer_append(&target.base.conn.out, bytes, <uint32_t>size) < 0:
            target_end(target, YAMUX_RESET_REFUSED)
            return
        target_connect(target)
        return
    acks_wrote(&target.acks)
    conn_gather(&target.base.conn, bytes, size)


cdef void stream_writable(Link *link, YamuxStream *stream) noexcept nogil:
    cdef Target *target = <Target *>stream.owner
    if target.state == TARGET_OPEN:
        conn_requeue(&target.base.conn)


cdef void stream_finished(Link *link, YamuxStream *stream) noexcept nogil:
    cdef Target *target = <Target *>stream.owner
    target.stream_done = True
    if target.state == TARGET_PREAMBLE:
        target_end(target, YAMUX_RESET_PROTOCOL)
        return
    gather_flush(link.conn.worker)
    conn_requeue(&target.base.conn)


cdef void stream_reset(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil:
    cdef Target *target = <Target *>stream.owner
    # Not by an end that looks complete. A target of HTTP is spared: its framing tells, and idle
    # streams end like this all the time.
    if target.flags & TARGET_TCP and target.base.conn.fd >= 0:
        if target.state == TARGET_OPEN and code != RESET_LINK_LOST:
            stream_give_back(target, YAMUX_RESET_CANCEL)
            conn_part(&target.base.conn)     # what the visitor said before is said
            return
        gather_flush(link.conn.worker)
        conn_abort(&target.base.conn)
    target_end(target, YAMUX_RESET_CANCEL)


# --- from and to the target -------------------------------------------------------------------

cdef void target_ready(Conn *conn) noexcept nogil:
    cdef Target *target = <Target *>conn
    cdef Link *link
    cdef int error
    if target.state == TARGET_CONNECTING:
        error = target_conn_step(&target.base)
        if error == -EAGAIN:
            return
        if error < 0:
            connect_failed(target, -error)
            return
        target.state = TARGET_OPEN
        link = link_of(target.stream)
        target.stream.is_fixed = target.base.profile.is_fixed
        yamux_stream_accept(target.stream, link.session.window_start)
        link_touch(link)
    if buffer_size(&conn.out):
        conn_flush_out(conn)
    if target.stream_done and conn_owed(conn) == 0 and not conn.flags & CONN_BROKEN:
        conn_finish_writing(conn)
    read_target(target)
    if conn.flags & CONN_CLOSED:
        return
    if target.target_done and target.stream_done and conn_owed(conn) == 0:
        target_end(target, YAMUX_RESET_CANCEL)
    elif conn.flags & CONN_BROKEN and not conn.flags & CONN_READABLE:
        target_end(target, YAMUX_RESET_TARGET_LOST)


cdef void read_target(Target *target) noexcept nogil:
    """Read straight into the link's output, behind a reserved frame header."""
    cdef Conn *conn = &target.base.conn
    cdef YamuxStream *stream = target.stream
    cdef Link *link = link_of(stream)
    cdef uint8_t *place
    cdef int64_t received
    cdef uint32_t allowed, moved = 0
    while conn.flags & CONN_READABLE and not target.target_done:
        if link_is_full(link, stream) or link_turn_is_over(link, moved):
            conn_wait(conn, &link.waiting)
            return
        if moved >= READ_BUDGET:
            conn_requeue(conn)
            return
        # Always large frames: what is read in one turn stands in the link's output without
        # anybody else's frame in between, so small ones would only be more reads.
        allowed = min(link_allowance(link, stream), target.base.profile.read_size_max)
        if allowed == 0:
            return
        place = yamux_stream_reserve(stream, allowed)
        if place == NULL:
            count(conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
            target_end(target, YAMUX_RESET_TARGET_LOST)
            return
        received = conn_recv(conn, place, allowed)
        yamux_stream_commit(stream, <uint32_t>received if received > 0 else 0)
        if received > 0:
            moved += <uint32_t>received
            link_touch(link)
            acks_read(&target.acks, conn)
        elif received == 0:
            target.target_done = True
            yamux_stream_finish(stream)
            link_touch(link)
        elif received != -EAGAIN:
            target_end(target, YAMUX_RESET_TARGET_LOST)
            return
    yamux_stream_rest(stream)


cdef void target_sent(Conn *conn) noexcept nogil:
    cdef Target *target = <Target *>conn
    cdef uint32_t owed = conn_owed(conn)
    if target.stream != NULL and target.stream.unconsumed > owed:
        yamux_stream_consume(target.stream, target.stream.unconsumed - owed)
        link_touch(link_of(target.stream))


cdef void target_timeout(Conn *conn) noexcept nogil:
    cdef Target *target = <Target *>conn
    count(conn.worker.counters, COUNT_TIMEOUTS, 1)
    if target.state == TARGET_CONNECTING:
        connect_failed(target, ETIMEDOUT)
