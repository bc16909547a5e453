# See end.pxd.

from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport strlen

from proxy_engine_core.buffer cimport buffer_free
from proxy_engine_core.counters cimport COUNT_LINK_PROTOCOL_ERRORS, COUNT_LINKS_CLOSED, count
from proxy_engine_core.events cimport EVENT_LINK_DOWN
from proxy_engine_core.io.conn cimport conn_close, conn_wake_all
from proxy_engine_core.io.crew cimport crew_drop_link
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.worker cimport CONN_LINK, Conn, Worker
from proxy_engine_core.link.link cimport (
    OWNER_NONE, RESET_LINK_LOST, Link, LinkHost, link_host,
)
from proxy_engine_core.link.output cimport output_close, output_flush
from proxy_engine_core.quota cimport quota_drop
from proxy_engine_core.yamux.send cimport yamux_session_go_away
from proxy_engine_core.yamux.session cimport YamuxStream
from proxy_engine_core.yamux.stream cimport (
    yamux_session_any_stream, yamux_session_free, yamux_stream_release,
)


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
    news_event(
        worker, EVENT_LINK_DOWN, link.id, link.device, link.bytes_in,
        link.bytes_out, worker.now_ms - link.up_ms, reason, <uint32_t>strlen(reason), NULL, 0,
    )
    conn_close(&link.conn)


cdef void link_close(Link *link, const char *reason) noexcept nogil:
    if link.is_closing:
        return
    yamux_session_go_away(&link.session, 0)
    link_say_goodbye(link)
    link_fail(link, reason)


cdef void links_close_all(Worker *worker, const char *reason) noexcept nogil:
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_LINK:
            link_close(<Link *>worker.conns[slot], reason)


cdef void link_protocol_error(Link *link, const char *reason) noexcept nogil:
    count(link.conn.worker.counters, COUNT_LINK_PROTOCOL_ERRORS, 1)
    yamux_session_go_away(&link.session, 1)
    link_say_goodbye(link)
    link_fail(link, reason)


cdef void link_say_goodbye(Link *link) noexcept nogil:
    link_flush(&link.conn)
    if not link.is_closing:
        output_close(link)


cdef void link_flush(Conn *conn) noexcept nogil:
    if output_flush(<Link *>conn) < 0:
        link_fail(<Link *>conn, b"connection_lost")


cdef void link_release(Conn *conn) noexcept nogil:
    cdef Link *link = <Link *>conn
    yamux_session_free(&link.session)
    buffer_free(&link.urgent)
    buffer_free(&link.control_in)
    buffer_free(&link.control_out)
    quota_drop(link.quota)
    free(link)
