# See establish.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, strlen

from proxy_engine_core.buffer cimport BUFFER_HEADROOM_MAX, buffer_init
from proxy_engine_core.counters cimport COUNT_LINKS_OPENED, COUNT_MEMORY_ERRORS, count
from proxy_engine_core.events cimport EVENT_LINK_UP
from proxy_engine_core.io.conn cimport conn_close, conn_replace, conn_requeue, gather_flush
from proxy_engine_core.io.crew cimport crew_drop_link
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.pressure cimport PRESSURE_GROWTH
from proxy_engine_core.io.worker cimport CONN_LINK, Conn, Worker, conn_handle
from proxy_engine_core.link.control cimport control_init_worker, control_open
from proxy_engine_core.link.end cimport link_fail, link_flush, link_release
from proxy_engine_core.link.input cimport link_ready, link_receive
from proxy_engine_core.link.keepalive cimport keepalive_start, link_timeout
from proxy_engine_core.link.link cimport (
    CARRIER_WEBSOCKET, OWNER_CONTROL, Link, LinkHost, LinkWebSocket, link_host,
)
from proxy_engine_core.quota cimport quota_hold
from proxy_engine_core.websocket.frame cimport ws_reader_init
from proxy_engine_core.yamux.session cimport yamux_session_init, yamux_session_tune


cdef void link_init_worker(Worker *worker) noexcept nogil:
    cdef LinkHost *host = link_host(worker)
    worker.ops[<int>CONN_LINK].ready = link_ready
    worker.ops[<int>CONN_LINK].timeout = link_timeout
    worker.ops[<int>CONN_LINK].flush = link_flush
    worker.ops[<int>CONN_LINK].sent = link_sent
    worker.ops[<int>CONN_LINK].release = link_release
    worker.on_pressure = under_pressure
    host.windows.clock_us = &worker.now_us
    host.windows.extra_max = worker.options.window_worker_max
    host.windows.session_max = worker.options.window_link_max
    host.windows.stream_max = <uint32_t>worker.options.window_stream_max
    control_init_worker(&host.ops[<int>OWNER_CONTROL])


cdef void link_sent(Conn *conn) noexcept nogil:
    # Links never gather: it was ciphertext, which may be all that waits.
    (<Link *>conn).progress_ms = conn.worker.now_ms


cdef void under_pressure(Worker *worker) noexcept nogil:
    link_host(worker).windows.is_short = worker.pressure >= PRESSURE_GROWTH


cdef Link *link_establish(
    Conn *conn, const LinkSetup *setup, const char *peer, const uint8_t *head, uint32_t head_size,
    uint8_t *early, uint32_t early_size
) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef size_t websocket_size = sizeof(LinkWebSocket) * (setup.carrier == CARRIER_WEBSOCKET)
    cdef size_t peer_size = strlen(peer)
    cdef Link *link = <Link *>calloc(1, sizeof(Link) + websocket_size + peer_size + 1)
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
    link.direct_max = setup.direct_max
    link.direct = setup.direct
    link.quota = setup.quota
    quota_hold(link.quota)
    link.carrier = setup.carrier
    link.is_client = setup.is_client
    link.has_preamble = setup.has_preamble
    link.streams_max = setup.streams_max
    link.up_ms = worker.now_ms
    link.flood.since_ms = worker.now_ms
    link.input_ms = worker.now_ms
    link.progress_ms = worker.now_ms
    if websocket_size:
        link.websocket = <LinkWebSocket *>(link + 1)
        ws_reader_init(&link.websocket.reader, not setup.is_client, False, 0)
    link.peer = <char *>(link + 1) + websocket_size
    memcpy(link.peer, peer, peer_size)
    # Our own limit on streams the device opens: the control stream, nothing else.
    yamux_session_init(
        &link.session, setup.is_client, &link.conn.out, &link.urgent, setup.window,
        setup.streams_max if setup.is_client else 1,
    )
    yamux_session_tune(
        &link.session, &link_host(worker).windows,
        <uint32_t>worker.options.window_start if setup.has_preamble else 0,
    )
    count(worker.counters, COUNT_LINKS_OPENED, 1)
    news_event(
        worker, EVENT_LINK_UP, link.id, link.device, 0, 0, 0,
        link.peer, <uint32_t>peer_size, head, head_size,
    )
    if setup.is_client and setup.has_preamble and control_open(link) < 0:
        link_fail(link, b"no_memory")
        return link
    keepalive_start(link)
    if early_size:
        link_receive(link, early, early_size)
        gather_flush(worker)
    conn_requeue(&link.conn)
    return link
