# See control.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_head, buffer_size,
)
from proxy_engine_core.counters cimport COUNT_CONTROL_RECORDS, count
from proxy_engine_core.events cimport EVENT_CONTROL
from proxy_engine_core.io.conn cimport conn_deadline
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.end cimport link_fail, link_protocol_error
from proxy_engine_core.link.link cimport (
    CONTROL_ENDED, CONTROL_TICKETS, DATA_NAME_SIZE, OWNER_CONTROL, RESET_LINK_LOST, Link, LinkHost,
    StreamOps, link_host,
)
from proxy_engine_core.link.output cimport link_touch
from proxy_engine_core.wire cimport load_be32, load_be64, store_be32, store_be64
from proxy_engine_core.yamux.send cimport yamux_stream_rest, yamux_stream_send
from proxy_engine_core.yamux.session cimport YAMUX_RESET_PROTOCOL, YamuxStream
from proxy_engine_core.yamux.stream cimport (
    yamux_stream_accept, yamux_stream_consume, yamux_stream_open, yamux_stream_release,
)


cdef enum:
    RETRY_MS = 50                         # Python is behind with events: look again
    BACKLOG_MAX = 1024 * 1024             # unsent bytes: a peer that never reads


cdef void control_init_worker(StreamOps *ops) noexcept nogil:
    ops.data = control_data
    ops.writable = control_writable
    ops.accepted = control_accepted
    ops.finished = control_finished
    ops.reset = control_reset


cdef int control_open(Link *link) noexcept nogil:
    # It takes id 1 by being the first stream opened.
    link.control = yamux_stream_open(&link.session, 0)
    if link.control == NULL:
        return -ENOMEM
    link.control.owner_kind = OWNER_CONTROL
    link.control.owner = link
    return 0


cdef void control_accept(Link *link, YamuxStream *stream) noexcept nogil:
    stream.owner_kind = OWNER_CONTROL
    stream.owner = link
    link.control = stream
    yamux_stream_accept(stream, 0)
    control_flush(link)


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
            link_protocol_error(link, b"bad_control_record")
            return
        if buffer_size(&link.control_in) - 4 < length:
            return
        count(worker.counters, COUNT_CONTROL_RECORDS, 1)
        if link.direct == NULL or not take_record(link, record + 4, length):
            link.records += 1
            news_event(
                worker, EVENT_CONTROL, link.id, 0, 0, 0, 0, record + 4, length, NULL, 0
            )
        buffer_consume(&link.control_in, 4 + length)


cdef bint take_record(Link *link, const uint8_t *record, uint32_t size) noexcept nogil:
    """One that is for the engine. False: it is not."""
    cdef LinkHost *host = link_host(link.conn.worker)
    if record[0] == CONTROL_TICKETS and link.is_client:
        host.tickets(link, record + 1, size - 1)
        return True
    if record[0] != CONTROL_ENDED or size != 1 + DATA_NAME_SIZE:
        return False
    if not host.ended(link, load_be64(record + 1)):
        link.records += 1                 # of little use
    return True


cdef void link_send_ended(Link *link, uint64_t name) noexcept nogil:
    cdef uint8_t record[1 + DATA_NAME_SIZE]
    record[0] = CONTROL_ENDED
    store_be64(record + 1, name)
    link_send_control(link, record, sizeof(record))


cdef void control_grant(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    if link.control == NULL or link.control.unconsumed == 0:
        return
    if worker.overflow_first == NULL:
        yamux_stream_consume(link.control, link.control.unconsumed)
        link_touch(link)
    elif link.conn.timer.deadline_ms > worker.now_ms + RETRY_MS:
        conn_deadline(&link.conn, RETRY_MS)


cdef void link_send_control(Link *link, const uint8_t *record, uint32_t size) noexcept nogil:
    cdef uint8_t header[4]
    if link.is_closing:
        return
    store_be32(header, size)
    if (
        buffer_size(&link.control_out) + size > BACKLOG_MAX
        or buffer_append(&link.control_out, header, 4) < 0
        or buffer_append(&link.control_out, record, size) < 0
    ):
        link_fail(link, b"control_overflow")
        return
    control_flush(link)


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


cdef void control_writable(Link *link, YamuxStream *stream) noexcept nogil:
    control_flush(link)


cdef void control_accepted(Link *link, YamuxStream *stream) noexcept nogil:
    pass


cdef void control_finished(Link *link, YamuxStream *stream) noexcept nogil:
    # Nobody closes it but with the link.
    link_protocol_error(link, b"control_closed")


cdef void control_reset(Link *link, YamuxStream *stream, uint32_t code) noexcept nogil:
    link.control = NULL
    yamux_stream_release(stream, YAMUX_RESET_PROTOCOL)
    if code != RESET_LINK_LOST:
        link_protocol_error(link, b"control_closed")
