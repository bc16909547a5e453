# See link.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen, strncpy

from proxy_engine_core.buffer cimport (
    BUFFER_HEADROOM_MAX, buffer_append, buffer_consume, buffer_free, buffer_head, buffer_init,
    buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_CONTROL_RECORDS, COUNT_LINK_BYTES_IN, COUNT_LINK_BYTES_OUT, COUNT_LINK_FLUSHES,
    COUNT_LINK_PING_FLOODS, COUNT_LINK_PROTOCOL_ERRORS, COUNT_LINK_UNKNOWN_STREAM_FRAMES,
    COUNT_LINKS_CLOSED,
    COUNT_LINKS_OPENED, COUNT_MEMORY_ERRORS, COUNT_PINGS_SENT, COUNT_STREAMS_REFUSED, count,
)
from proxy_engine_core.events cimport EVENT_CONTROL, EVENT_LINK_DOWN, EVENT_LINK_UP
from proxy_engine_core.flood cimport flood_look, flood_reason
from proxy_engine_core.io.conn cimport (
    conn_close, conn_deadline, conn_recv, conn_replace, conn_requeue, conn_send, conn_wake_all,
    conn_wake_first,
    gather_flush,
)
from proxy_engine_core.io.crew cimport crew_drop_link
from proxy_engine_core.io.pressure cimport PRESSURE_GROWTH
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_LINK, CONN_READABLE, CONN_WRITABLE, WORKER_LINK_READ_SIZE, Conn, Worker,
    conn_handle, worker_emit, worker_random,
)
from proxy_engine_core.websocket.frame cimport (
    WS_BINARY, WS_CLOSE, WS_EVENT_CLOSE, WS_EVENT_DATA, WS_EVENT_NEED_MORE, WS_EVENT_PING,
    WS_HEADER_SIZE_MAX, WS_PONG, WsEvent, ws_header_encode, ws_header_size, ws_mask,
    ws_reader_init, ws_reader_next,
)
from proxy_engine_core.wire cimport load_be32, store_be16, store_be32
from proxy_engine_core.yamux.session cimport (
    YAMUX_EVENT_ACK, YAMUX_EVENT_DATA, YAMUX_EVENT_FIN, YAMUX_EVENT_GO_AWAY,
    YAMUX_EVENT_NEED_MORE, YAMUX_EVENT_OPEN, YAMUX_EVENT_PONG, YAMUX_EVENT_RESET,
    YAMUX_EVENT_WINDOW, YAMUX_FRAME_PAYLOAD_MAX, YAMUX_RESET_PROTOCOL, YAMUX_RESET_REFUSED,
    YamuxEvent, YamuxStream, yamux_frames_size, yamux_session_any_stream, yamux_session_free,
    yamux_session_go_away, yamux_session_init, yamux_session_next, yamux_session_ping,
    yamux_session_tune, yamux_stream_accept, yamux_stream_consume, yamux_stream_open,
    yamux_stream_release, yamux_stream_rest, yamux_stream_send,
)


cdef void link_init_worker(Worker *worker) noexcept nogil:
    cdef LinkHost *host = link_host(worker)
    worker.ops[<int>CONN_LINK].ready = link_ready
    worker.ops[<int>CONN_LINK].timeout = link_timeout
    worker.ops[<int>CONN_LINK].flush = link_flush
    worker.ops[<int>CONN_LINK].sent = NULL            # links never gather
    worker.ops[<int>CONN_LINK].release = link_release
    worker.on_pressure = under_pressure
    host.windows.clock_us = &worker.now_us
    host.windows.extra_max = worker.options.window_worker_max
    host.windows.session_max = worker.options.window_link_max
    host.windows.stream_max = <uint32_t>worker.options.window_stream_max
    host.ops[<int>OWNER_CONTROL].data = control_data
    host.ops[<int>OWNER_CONTROL].writable = control_writable
    host.ops[<int>OWNER_CONTROL].accepted = control_accepted
    host.ops[<int>OWNER_CONTROL].finished = control_finished
    host.ops[<int>OWNER_CONTROL].reset = control_reset


cdef void under_pressure(Worker *worker) noexcept nogil:
    link_host(worker).windows.is_short = worker.pressure >= PRESSURE_GROWTH


# --- life -----------------------------------------------------------------------------

cdef uint64_t jittered(Worker *worker, uint64_t interval_ms) noexcept nogil:
    # +-20 %, so that ten thousand devices do not ping in step.
    return interval_ms * 4 // 5 + worker_random(worker) % (interval_ms * 2 // 5 + 1)


cdef Link *link_establish(
    Conn *conn, const LinkSetup *setup, const char *peer, const uint8_t *head, uint32_t head_size,
    uint8_t *early, uint32_t early_size
) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Link *link = <Link *>calloc(1, sizeof(Link))
    if link == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        crew_drop_link(worker.crew, worker.index)
        conn_close(conn)
        return NULL
    conn_replace(conn, &link.conn, CONN_LINK)
    buffer_init(
        &link.conn.out, &worker.pool,
        BUFFER_HEADROOM_MAX if setup.carrier == CARRIER_WEBSOCKET else 0,
    )
    buffer_init(&link.urgent, &worker.pool, link.conn.out.headroom)
    buffer_init(&link.control_in, &worker.pool, 0)
    buffer_init(&link.control_out, &worker.pool, 0)
    link.id = setup.id if setup.id else conn_handle(&link.conn)
    link.device = setup.device
    link.carrier = setup.carrier
    link.is_client = setup.is_client
    link.has_preamble = setup.has_preamble
    link.streams_max = setup.streams_max
    link.rtt_period_ms = LINK_RTT_PERIOD_MIN_MS
    link.up_ms = worker.now_ms
    link.flood.since_ms = worker.now_ms
    link.input_ms = worker.now_ms
    link.progress_ms = worker.now_ms
    strncpy(link.peer, peer, sizeof(link.peer) - 1)
    # Our own limit on streams the device opens: the control stream, nothing else.
    yamux_session_init(
        &link.session, setup.is_client, &link.conn.out, &link.urgent, setup.window,
        setup.streams_max if setup.is_client else 1,
    )
    yamux_session_tune(
        &link.session, &link_host(worker).windows,
        <uint32_t>worker.options.window_start if setup.has_preamble else 0,
    )
    if setup.carrier == CARRIER_WEBSOCKET:
        ws_reader_init(&link.websocket, not setup.is_client, False, 0)
    conn_deadline(&link.conn, jittered(worker, worker.options.ping_interval_ms))
    count(worker.counters, COUNT_LINKS_OPENED, 1)
    worker_emit(
        worker, EVENT_LINK_UP, link.id, link.device, 0, 0, 0,
        link.peer, <uint32_t>strlen(link.peer), head, head_size,
    )
    if setup.is_client and setup.has_preamble:
        # The control stream takes id 1 by being the first one opened.
        link.control = yamux_stream_open(&link.session, 0)
        if link.control == NULL:
            link_fail(link, b"no_memory")
            return link
        link.control.owner_kind = OWNER_CONTROL
        link.control.owner = link
    measure_round_trip(link)
    if early_size:
        link_receive(link, early, early_size)
        gather_flush(worker)
    conn_requeue(&link.conn)
    return link


cdef void link_fail(Link *link, const char *reason) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef LinkHost *host = link_host(worker)
    cdef YamuxStream *stream
    if link.is_closing:
        return
    link.is_closing = True
    while True:
        stream = yamux_session_any_stream(&link.session)
        if stream == NULL:
            break
        if stream.owner_kind == OWNER_NONE:
            yamux_stream_release(stream, 0)
        else:
            host.ops[stream.owner_kind].reset(link, stream, RESET_LINK_LOST)
    host.closed(link)
    conn_wake_all(&link.waiting)
    count(worker.counters, COUNT_LINKS_CLOSED, 1)
    crew_drop_link(worker.crew, worker.index)
    worker_emit(
        worker, EVENT_LINK_DOWN, link.id, link.device, link.bytes_in,
        link.bytes_out, worker.now_ms - link.up_ms, reason, <uint32_t>strlen(reason), NULL, 0,
    )
    conn_close(&link.conn)


cdef void link_close(Link *link, const char *reason) noexcept nogil:
    if link.is_closing:
        return
    yamux_session_go_away(&link.session, 0)
    say_goodbye(link)
    link_fail(link, reason)


cdef void links_close_all(Worker *worker, const char *reason) noexcept nogil:
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_LINK:
            link_close(<Link *>worker.conns[slot], reason)


cdef void protocol_error(Link *link, const char *reason) noexcept nogil:
    count(link.conn.worker.counters, COUNT_LINK_PROTOCOL_ERRORS, 1)
    yamux_session_go_away(&link.session, 1)
    say_goodbye(link)
    link_fail(link, reason)


cdef void say_goodbye(Link *link) noexcept nogil:
    # Best effort: what the socket takes now, and a WebSocket close behind it.
    cdef uint8_t frame[WS_HEADER_SIZE_MAX + 2]
    cdef uint8_t key[4]
    cdef int size
    link_flush(&link.conn)
    if link.carrier != CARRIER_WEBSOCKET or link.is_closing or link_waiting_size(link):
        return
    size = ws_header_encode(frame, WS_CLOSE, True, 2, new_key(link, key))
    store_be16(frame + size, 1000)
    if link.is_client:
        ws_mask(frame + size, 2, key, 0)
    conn_send(&link.conn, frame, size + 2)


cdef void link_release(Conn *conn) noexcept nogil:
    cdef Link *link = <Link *>conn
    yamux_session_free(&link.session)
    buffer_free(&link.urgent)
    buffer_free(&link.control_in)
    buffer_free(&link.control_out)
    free(link)


cdef void link_timeout(Conn *conn) noexcept nogil:
    cdef Link *link = <Link *>conn
    cdef Worker *worker = conn.worker
    cdef uint64_t interval = worker.options.ping_interval_ms
    # Only what the socket has refused counts: frames of this very turn may be waiting for
    # their first flush after a long silence.
    if (
        link_waiting_size(link) and not conn.flags & CONN_WRITABLE
        and worker.now_ms - link.progress_ms >= worker.options.link_stall_ms
    ):
        link_fail(link, b"stalled")
        return
    if worker.now_ms - link.input_ms >= interval * 4 // 5:
        if link.session.ping_outstanding:
            # Housekeeping may come earlier than the ping had a fair chance.
            if worker.now_ms - link.ping_ms >= interval * 4 // 5:
                link.ping_ms = worker.now_ms
                link.ping_misses += 1
                if link.ping_misses >= 2:
                    link_fail(link, b"ping_timeout")
                    return
        else:
            link.ping_misses = 0
            link.rtt_period_ms = LINK_RTT_PERIOD_MIN_MS       # silent until now
            measure_round_trip(link)
    conn_deadline(conn, jittered(worker, interval))
    control_grant(link)
    link_host(worker).housekeep(link)


cdef void measure_round_trip(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    if yamux_session_ping(&link.session, <uint32_t>worker_random(worker)) != 0:
        return
    link.ping_ms = worker.now_ms
    link.ping_us = worker.now_us
    link.ping_bytes = link.bytes_in + link.bytes_out
    count(worker.counters, COUNT_PINGS_SENT, 1)
    link_touch(link)


cdef void measure_if_in_use(Link *link) noexcept nogil:
    if (
        link.bytes_in + link.bytes_out - link.ping_bytes < LINK_RTT_BUSY_SIZE
        or link.input_ms - link.ping_ms < link.rtt_period_ms
    ):
        return
    link.rtt_period_ms = min(2 * link.rtt_period_ms, <uint32_t>LINK_RTT_PERIOD_MAX_MS)
    measure_round_trip(link)


cdef void take_round_trip(Link *link) noexcept nogil:
    """The pong is here. A shorter round trip always counts; a longer one only if the link
    was quiet meanwhile, or windows would feed on the queues they make."""
    cdef uint64_t rtt_us = link.conn.worker.now_us - link.ping_us
    cdef bint is_quiet = link.bytes_in + link.bytes_out - link.ping_bytes < LINK_RTT_BUSY_SIZE
    rtt_us = max(<uint64_t>1, min(rtt_us, <uint64_t>LINK_RTT_US_MAX))
    link.rtt_samples += 1
    if link.rtt_us == 0 or rtt_us < link.rtt_us:
        link.rtt_us = rtt_us
    elif is_quiet and link.rtt_samples > LINK_RTT_SAMPLES_MIN:
        link.rtt_us += (rtt_us - link.rtt_us) // 4
    if link.rtt_samples >= LINK_RTT_SAMPLES_MIN:
        link.session.rtt_us = link.rtt_us


# --- input ------------------------------------------------------------------------------

cdef void link_ready(Conn *conn) noexcept nogil:
    cdef Link *link = <Link *>conn
    cdef Worker *worker = conn.worker
    cdef int64_t received
    cdef int _read
    if link_waiting_size(link):
        conn_mark_dirty(conn)
    for _read in range(LINK_READS_MAX):
        if not conn.flags & CONN_READABLE:
            break
        received = conn_recv(conn, worker.link_scratch, WORKER_LINK_READ_SIZE)
        if received == -EAGAIN:
            break
        if received <= 0:
            link_fail(link, b"closed" if received == 0 else b"connection_lost")
            return
        link_receive(link, worker.link_scratch, <size_t>received)
        gather_flush(worker)
        if link.is_closing:
            return
    if conn.flags & CONN_BROKEN and not conn.flags & CONN_READABLE:
        link_fail(link, b"connection_lost")
    elif conn.flags & CONN_READABLE:
        conn_requeue(conn)


cdef void link_receive(Link *link, uint8_t *bytes, size_t size) noexcept nogil:
    cdef uint8_t *end = bytes + size
    link.bytes_in += size
    link.input_ms = link.conn.worker.now_ms
    link.ping_misses = 0
    count(link.conn.worker.counters, COUNT_LINK_BYTES_IN, size)
    link_touch(link)
    if buffer_size(&link.urgent) > LINK_OUT_MAX:
        # Pongs and window updates for a peer that asks but never reads.
        protocol_error(link, b"output_overflow")
        return
    measure_if_in_use(link)
    receive(link, bytes, end)
    if not link.is_client and not link.is_closing:
        look_for_flood(link)


cdef void look_for_flood(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef int kind = flood_look(
        &link.flood, &link.session, link.session.pings_received + link.websocket_pings,
        link.records, worker.now_ms, worker.options,
    )
    if kind >= 0:
        count(worker.counters, COUNT_LINK_PING_FLOODS + kind, 1)
        protocol_error(link, flood_reason(kind))


cdef void receive(Link *link, uint8_t *bytes, uint8_t *end) noexcept nogil:
    cdef uint8_t *cursor = bytes
    cdef WsEvent event
    cdef int kind
    if link.carrier == CARRIER_RAW:
        session_receive(link, bytes, end)
        return
    while not link.is_closing:
        kind = ws_reader_next(&link.websocket, &cursor, end, &event)
        if kind == WS_EVENT_NEED_MORE:
            return
        if kind == WS_EVENT_DATA:
            session_receive(link, event.data, event.data + event.size)
        elif kind == WS_EVENT_PING:
            link.websocket_pings += 1
            # Only the latest ping needs an answer (RFC 6455 section 5.5.3).
            memcpy(link.pong, event.data, event.size)
            link.pong_size = <uint32_t>event.size
            link.pong_due = True
        elif kind == WS_EVENT_CLOSE:
            say_goodbye(link)
            link_fail(link, b"closed")
            return
        elif kind < 0:
            protocol_error(link, b"bad_websocket")
            return


cdef void session_receive(Link *link, uint8_t *bytes, uint8_t *end) noexcept nogil:
    cdef uint8_t *cursor = bytes
    cdef LinkHost *host = link_host(link.conn.worker)
    cdef YamuxEvent event
    cdef StreamOps *ops
    cdef int kind
    while True:
        kind = yamux_session_next(&link.session, &cursor, end, &event)
        if kind == YAMUX_EVENT_NEED_MORE:
            break
        if kind < 0:
            protocol_error(link, b"bad_yamux")
            break
        if kind == YAMUX_EVENT_OPEN:
            stream_opened(link, event.stream)
        elif kind == YAMUX_EVENT_GO_AWAY:
            # No new streams from us; the ones in flight go on until the peer closes.
            if event.code != 0:
                link_fail(link, b"go_away")
                return
            host.housekeep(link)          # who waits for a stream of this link need not
        elif kind == YAMUX_EVENT_PONG:
            take_round_trip(link)
        else:
            ops = &host.ops[event.stream.owner_kind]
            if kind == YAMUX_EVENT_DATA:
                ops.data(link, event.stream, event.data, event.size)
            elif kind == YAMUX_EVENT_WINDOW:
                ops.writable(link, event.stream)
            elif kind == YAMUX_EVENT_ACK:
                ops.accepted(link, event.stream)
            elif kind == YAMUX_EVENT_FIN:
                ops.finished(link, event.stream)
            elif kind == YAMUX_EVENT_RESET:
                ops.reset(link, event.stream, event.code)
        if link.is_closing:
            return
    if link.session.unknown_stream_frames != link.unknown_frames_seen:
        count(
            link.conn.worker.counters, COUNT_LINK_UNKNOWN_STREAM_FRAMES,
            link.session.unknown_stream_frames - link.unknown_frames_seen,
        )
        link.unknown_frames_seen = link.session.unknown_stream_frames
    if link.session.streams_refused != link.streams_refused_seen:
        count(
            link.conn.worker.counters, COUNT_STREAMS_REFUSED,
            link.session.streams_refused - link.streams_refused_seen,
        )
        link.streams_refused_seen = link.session.streams_refused


cdef void stream_opened(Link *link, YamuxStream *stream) noexcept nogil:
    if link.is_client:
        link_host(link.conn.worker).opened(link, stream)
        return
    # A device opens the control stream; anything else was not agreed on.
    if link.has_preamble and stream.id == CONTROL_STREAM_ID and link.control == NULL:
        stream.owner_kind = OWNER_CONTROL
        stream.owner = link
        link.control = stream
        yamux_stream_accept(stream, 0)
        control_flush(link)
    else:
        count(link.conn.worker.counters, COUNT_STREAMS_REFUSED, 1)
        yamux_stream_release(stream, YAMUX_RESET_REFUSED)


# --- output -----------------------------------------------------------------------------

cdef const uint8_t *new_key(Link *link, uint8_t *key) noexcept nogil:
    # Client frames are masked; NULL for a server's.
    if not link.is_client:
        return NULL
    store_be32(key, <uint32_t>worker_random(link.conn.worker))
    return key


cdef void seal(Link *link, Buffer *out) noexcept nogil:
    """Take what `out` has for sending: from now on nothing passes it."""
    cdef uint32_t size = buffer_size(out)
    cdef uint32_t most
    cdef bint is_bulk = out == &link.conn.out
    cdef uint8_t key[4]
    cdef int header_size
    # A turn that moved much is followed by more of its kind: one block for all of it instead
    # of three, each copied into the next.
    out.first_size = size if size > YAMUX_FRAME_PAYLOAD_MAX else 0
    if is_bulk and link.carrier == CARRIER_WEBSOCKET:
        most = LINK_MESSAGE_SIZE if link.is_congested else LINK_MESSAGE_SIZE_MAX
        if size > most:
            size = yamux_frames_size(buffer_head(out), size, most)
    if is_bulk:
        link.session.bulk_start += size
    else:
        link.session.urgent_start += size
    if size and link.carrier == CARRIER_WEBSOCKET:
        header_size = ws_header_size(size, link.is_client)
        # Either the headroom of a fresh buffer or bytes sent before: always there.
        CHECK(out.start >= <uint32_t>header_size)
        ws_header_encode(
            out.bytes + out.start - header_size, WS_BINARY, True, size, new_key(link, key)
        )
        if link.is_client:
            ws_mask(out.bytes + out.start, size, key, 0)
        out.start -= header_size
        size += header_size
    if is_bulk:
        link.sealed = size
    else:
        link.urgent_sealed = size + seal_pong(link)


cdef uint32_t seal_pong(Link *link) noexcept nogil:
    """The WebSocket pong that is due, behind what is urgent; its bytes."""
    cdef uint8_t key[4]
    cdef uint8_t frame[WS_HEADER_SIZE_MAX + 125]
    cdef int size
    if not link.pong_due:
        return 0
    link.pong_due = False
    size = ws_header_encode(frame, WS_PONG, True, link.pong_size, new_key(link, key))
    memcpy(frame + size, link.pong, link.pong_size)
    if link.is_client:
        ws_mask(frame + size, link.pong_size, key, 0)
    size += link.pong_size
    if buffer_append(&link.urgent, frame, size) < 0:
        count(link.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        return 0
    return <uint32_t>size


cdef void unseal(Link *link, uint32_t sent) noexcept nogil:
    """The socket took only `sent` of the sealed frames: behind the one it cut, others may
    go first. Not so with a WebSocket message."""
    cdef uint32_t cut
    if link.carrier == CARRIER_RAW:
        cut = yamux_frames_size(buffer_head(&link.conn.out), link.sealed, sent)
        link.session.bulk_start -= link.sealed - cut
        link.sealed = cut


cdef void link_flush(Conn *conn) noexcept nogil:
    cdef Link *link = <Link *>conn
    cdef Buffer *out
    cdef uint32_t *sealed
    cdef int64_t sent
    cdef bint is_fresh
    while conn.flags & CONN_WRITABLE:
        out = &conn.out
        sealed = &link.sealed
        if link.sealed == 0 and (buffer_size(&link.urgent) or link.pong_due):
            out = &link.urgent
            sealed = &link.urgent_sealed
        is_fresh = sealed[0] == 0
        if is_fresh:
            seal(link, out)
            if sealed[0] == 0:
                link.is_congested = False
                break
            count(conn.worker.counters, COUNT_LINK_FLUSHES, 1)
        sent = conn_send(conn, buffer_head(out), sealed[0])
        if sent < 0:
            link_fail(link, b"connection_lost")
            return
        if <uint32_t>sent < sealed[0]:
            link.is_congested = True
            if is_fresh and out == &conn.out:
                unseal(link, <uint32_t>sent)
        if sent == 0:
            break
        sealed[0] -= <uint32_t>sent
        buffer_consume(out, <uint32_t>sent)
        link.bytes_out += <uint64_t>sent
        link.progress_ms = conn.worker.now_ms
        count(conn.worker.counters, COUNT_LINK_BYTES_OUT, <uint64_t>sent)
    wake_sources(link)


cdef void wake_sources(Link *link) noexcept nogil:
    """As many as will fill the output again, those first that have waited longest."""
    cdef uint32_t size = max(buffer_size(&link.conn.out), buffer_size(&link.urgent))
    if size > LINK_OUT_LOW:
        return
    while link.waiting.first != NULL and size < LINK_OUT_HIGH:
        conn_wake_first(&link.waiting)
        size += LINK_QUANTUM


# --- the control stream -------------------------------------------------------------------

cdef void control_data(
    Link *link, YamuxStream *stream, uint8_t *bytes, size_t size
) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef uint8_t *record
    cdef uint32_t length
    if buffer_append(&link.control_in, bytes, <uint32_t>size) < 0:
        link_fail(link, b"no_memory")
        return
    control_grant(link)
    while buffer_size(&link.control_in) >= 4:
        record = buffer_head(&link.control_in)
        length = load_be32(record)
        if length == 0 or length > CONTROL_RECORD_SIZE_MAX:
            protocol_error(link, b"bad_control_record")
            return
        if buffer_size(&link.control_in) - 4 < length:
            return
        count(worker.counters, COUNT_CONTROL_RECORDS, 1)
        link.records += 1
        worker_emit(
            worker, EVENT_CONTROL, link.id, 0, 0, 0, 0, record + 4, length, NULL, 0
        )
        buffer_consume(&link.control_in, 4 + length)


cdef void control_grant(Link *link) noexcept nogil:
    """Credit for what was read, unless Python is behind: events are never dropped, so a
    device that floods it has to stop by its window."""
    cdef Worker *worker = link.conn.worker
    if link.control == NULL or link.control.unconsumed == 0:
        return
    if worker.overflow_first == NULL:
        yamux_stream_consume(link.control, link.control.unconsumed)
        link_touch(link)
    elif link.conn.timer.deadline_ms > worker.now_ms + CONTROL_RETRY_MS:
        conn_deadline(&link.conn, CONTROL_RETRY_MS)


cdef void control_flush(Link *link) noexcept nogil:
    cdef uint32_t size
    if link.control == NULL or link.is_closing:
        return
    size = buffer_size(&link.control_out)
    if size > link.control.send_window:
        size = link.control.send_window
    if size == 0:
        return
    yamux_stream_rest(link.control)       # records pass bulk, however long
    if yamux_stream_send(link.control, buffer_head(&link.control_out), size) < 0:
        link_fail(link, b"no_memory")
        return
    buffer_consume(&link.control_out, size)
    link_touch(link)


cdef void link_send_control(Link *link, const uint8_t *record, uint32_t size) noexcept nogil:
    cdef uint8_t header[4]
    if link.is_closing:
        return
    store_be32(header, size)
    if (
        buffer_size(&link.control_out) + size > CONTROL_BACKLOG_MAX
        or buffer_append(&link.control_out, header, 4) < 0
        or buffer_append(&link.control_out, record, size) < 0
    ):
        link_fail(link, b"control_overflow")
        return
    control_flush(link)


cdef void control_writable(Link *link, YamuxStream *stream) noexcept nogil:
    control_flush(link)


cdef void control_accepted(Link *link, YamuxStream *stream) noexcept nogil:
    pass


cdef void control_finished(Link *link, YamuxStream *stream) noexcept nogil:
    # Nobody closes it but with the link.
    protocol_error(link, b"control_closed")


cdef void control_reset(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil:
    link.control = NULL
    yamux_stream_release(stream, YAMUX_RESET_PROTOCOL)
    if code != RESET_LINK_LOST:
        protocol_error(link, b"control_closed")
