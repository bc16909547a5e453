# See output.pxd.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.buffer cimport (
    Buffer, buffer_append, buffer_consume, buffer_head, buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_LINK_BYTES_OUT, COUNT_LINK_FLUSHES, COUNT_MEMORY_ERRORS, count,
)
from proxy_engine_core.io.conn cimport conn_send, conn_wake_first
from proxy_engine_core.io.worker cimport CONN_WRITABLE, Conn, worker_random
from proxy_engine_core.link.link cimport (
    CARRIER_RAW, CARRIER_WEBSOCKET, Link, LinkWebSocket,
)
from proxy_engine_core.websocket.frame cimport (
    WS_BINARY, WS_CLOSE, WS_CONTROL_SIZE_MAX, WS_HEADER_SIZE_MAX, WS_PONG, ws_header_encode,
    ws_header_size, ws_mask,
)
from proxy_engine_core.wire cimport store_be16, store_be32
from proxy_engine_core.yamux.send cimport YAMUX_FRAME_PAYLOAD_MAX, yamux_frames_size


cdef enum:
    MESSAGE_SIZE = 64 * 1024              # of WebSocket messages while the socket is full ...
    MESSAGE_SIZE_MAX = 128 * 1024         # ... and while it is not: more gains nothing


cdef int output_flush(Link *link) noexcept nogil:
    cdef Conn *conn = &link.conn
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
            return <int>sent
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
    return 0


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
        most = MESSAGE_SIZE if link.is_congested else MESSAGE_SIZE_MAX
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


cdef void unseal(Link *link, uint32_t sent) noexcept nogil:
    """The socket took only `sent` of the sealed frames: behind the one it cut, others may
    go first. Not so with a WebSocket message."""
    cdef uint32_t cut
    if link.carrier == CARRIER_RAW:
        cut = yamux_frames_size(buffer_head(&link.conn.out), link.sealed, sent)
        link.session.bulk_start -= link.sealed - cut
        link.sealed = cut


cdef uint32_t seal_pong(Link *link) noexcept nogil:
    """The WebSocket pong that is due, behind what is urgent; its bytes."""
    cdef LinkWebSocket *websocket = link.websocket
    cdef uint8_t key[4]
    cdef uint8_t frame[WS_HEADER_SIZE_MAX + WS_CONTROL_SIZE_MAX]
    cdef int size
    if not link.pong_due:
        return 0
    link.pong_due = False
    size = ws_header_encode(frame, WS_PONG, True, websocket.pong_size, new_key(link, key))
    memcpy(frame + size, websocket.pong, websocket.pong_size)
    if link.is_client:
        ws_mask(frame + size, websocket.pong_size, key, 0)
    size += websocket.pong_size
    if buffer_append(&link.urgent, frame, size) < 0:
        count(link.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        return 0
    return <uint32_t>size


cdef void output_close(Link *link) noexcept nogil:
    cdef uint8_t frame[WS_HEADER_SIZE_MAX + 2]
    cdef uint8_t key[4]
    cdef int size
    if link.carrier != CARRIER_WEBSOCKET or link_waiting_size(link):
        return
    size = ws_header_encode(frame, WS_CLOSE, True, 2, new_key(link, key))
    store_be16(frame + size, 1000)
    if link.is_client:
        ws_mask(frame + size, 2, key, 0)
    conn_send(&link.conn, frame, size + 2)


cdef const uint8_t *new_key(Link *link, uint8_t *key) noexcept nogil:
    # Client frames are masked; NULL for a server's.
    if not link.is_client:
        return NULL
    store_be32(key, <uint32_t>worker_random(link.conn.worker))
    return key


cdef void wake_sources(Link *link) noexcept nogil:
    """As many as will fill the output again, those first that have waited longest."""
    cdef uint32_t size = max(buffer_size(&link.conn.out), buffer_size(&link.urgent))
    if size > LINK_OUT_LOW:
        return
    while link.waiting.first != NULL and size < LINK_OUT_HIGH:
        conn_wake_first(&link.waiting)
        size += LINK_QUANTUM
