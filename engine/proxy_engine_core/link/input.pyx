# See input.pxd.

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport buffer_size
from proxy_engine_core.counters cimport (
    COUNT_LINK_BYTES_IN, COUNT_LINK_PING_FLOODS, COUNT_LINK_UNKNOWN_STREAM_FRAMES,
    COUNT_STREAMS_REFUSED, count,
)
from proxy_engine_core.flood cimport flood_look, flood_reason
from proxy_engine_core.io.conn cimport conn_mark_dirty, conn_recv, conn_requeue, gather_flush
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_READABLE, WORKER_LINK_READ_SIZE, Conn, Worker,
)
from proxy_engine_core.link.control cimport CONTROL_STREAM_ID, control_accept
from proxy_engine_core.link.end cimport link_fail, link_protocol_error, link_say_goodbye
from proxy_engine_core.link.keepalive cimport round_trip_look, round_trip_take
from proxy_engine_core.link.link cimport CARRIER_RAW, Link, LinkHost, StreamOps, link_host
from proxy_engine_core.link.output cimport LINK_OUT_MAX, link_touch, link_waiting_size
from proxy_engine_core.websocket.frame cimport (
    WS_EVENT_CLOSE, WS_EVENT_DATA, WS_EVENT_NEED_MORE, WS_EVENT_PING, WsEvent, ws_reader_next,
)
from proxy_engine_core.yamux.receive cimport (
    YAMUX_EVENT_ACK, YAMUX_EVENT_DATA, YAMUX_EVENT_FIN, YAMUX_EVENT_GO_AWAY,
    YAMUX_EVENT_NEED_MORE, YAMUX_EVENT_OPEN, YAMUX_EVENT_PONG, YAMUX_EVENT_RESET,
    YAMUX_EVENT_WINDOW, YamuxEvent, yamux_session_next,
)
from proxy_engine_core.yamux.session cimport YAMUX_RESET_REFUSED, YamuxStream
from proxy_engine_core.yamux.stream cimport yamux_stream_release


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
        link_protocol_error(link, b"output_overflow")
        return
    round_trip_look(link)
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
        link_protocol_error(link, flood_reason(kind))


cdef void receive(Link *link, uint8_t *bytes, uint8_t *end) noexcept nogil:
    cdef uint8_t *cursor = bytes
    cdef WsEvent event
    cdef int kind
    if link.carrier == CARRIER_RAW:
        session_receive(link, bytes, end)
        return
    while not link.is_closing:
        kind = ws_reader_next(&link.websocket.reader, &cursor, end, &event)
        if kind == WS_EVENT_NEED_MORE:
            return
        if kind == WS_EVENT_DATA:
            session_receive(link, event.data, event.data + event.size)
        elif kind == WS_EVENT_PING:
            link.websocket_pings += 1
            # Only the latest ping needs an answer (RFC 6455 section 5.5.3).
            memcpy(link.websocket.pong, event.data, event.size)
            link.websocket.pong_size = <uint32_t>event.size
            link.pong_due = True
        elif kind == WS_EVENT_CLOSE:
            link_say_goodbye(link)
            link_fail(link, b"closed")
            return
        elif kind < 0:
            link_protocol_error(link, b"bad_websocket")
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
            link_protocol_error(link, b"bad_yamux")
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
            round_trip_take(link)
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
    elif link.has_preamble and stream.id == CONTROL_STREAM_ID and link.control == NULL:
        control_accept(link, stream)
    else:
        # A device opens the control stream; anything else was not agreed on.
        count(link.conn.worker.counters, COUNT_STREAMS_REFUSED, 1)
        yamux_stream_release(stream, YAMUX_RESET_REFUSED)
