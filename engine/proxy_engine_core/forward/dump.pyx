# See dump.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset, strncpy

from proxy_engine_core.buffer cimport (
    BUFFER_CLASS_COUNT, BufferPool, buffer_size,
)
from proxy_engine_core.counters cimport COUNT_TURNS
from proxy_engine_core.events cimport EVENT_DUMP
from proxy_engine_core.forward.direct_pool cimport DirectPool
from proxy_engine_core.forward.transaction cimport DataConn, HttpStream, ServerRole, server_of
from proxy_engine_core.io.crew cimport crew_post
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.timer cimport timer_wheel_wait_ms
from proxy_engine_core.io.worker cimport CONN_LINK, WORKER_SCRATCH_SIZE, Conn, Worker
from proxy_engine_core.link.link cimport CARRIER_WEBSOCKET, OWNER_HTTP, Link
from proxy_engine_core.messages cimport DumpMessage
from proxy_engine_core.spsc cimport spsc_used
from proxy_engine_core.yamux.session cimport YamuxStream

cdef enum:
    SLOTS_PER_TURN = 4096
    BUCKETS_PER_TURN = 4096
    # Beyond what one bucket holds of streams, however their ids fell.
    ROOM_FOR_BUCKET = WORKER_SCRATCH_SIZE // 4

cdef struct Piece:                        # in the scratch, nobody's between two connections
    uint8_t *place
    uint32_t size


cdef void put(Piece *piece, uint32_t kind, const void *row, uint32_t size) noexcept nogil:
    memcpy(piece.place + piece.size, &kind, sizeof(kind))
    memcpy(piece.place + piece.size + sizeof(kind), row, size)
    piece.size += <uint32_t>sizeof(kind) + size


cdef inline uint32_t room(const Piece *piece) noexcept nogil:
    return WORKER_SCRATCH_SIZE - piece.size


cdef uint32_t busy_connections(const DirectPool *pool) noexcept nogil:
    cdef const DataConn *data = pool.busy
    cdef uint32_t found = 0
    while data != NULL:
        found += 1
        data = data.older
    return found


cdef void put_link(Piece *piece, Link *link) noexcept nogil:
    cdef const Worker *worker = link.conn.worker
    cdef const DirectPool *pool = <const DirectPool *>link.direct
    cdef DumpLink row
    memset(&row, 0, sizeof(row))
    row.id = link.id
    row.device = link.device
    row.bytes_in = link.bytes_in
    row.bytes_out = link.bytes_out
    row.up_ms = worker.now_ms - link.up_ms
    row.silent_ms = worker.now_ms - link.input_ms
    row.queued_bytes = buffer_size(&link.conn.out)
    row.urgent_bytes = buffer_size(&link.urgent)
    row.control_bytes = buffer_size(&link.control_out)
    if link.conn.tls != NULL:
        row.is_tls = True
        row.tls_bytes = buffer_size(&link.conn.tls.out)
    if row.queued_bytes or row.urgent_bytes or row.tls_bytes:
        row.stalled_ms = worker.now_ms - link.progress_ms
    row.rtt_us = link.rtt_us
    row.window = link.session.window
    row.window_extra = link.session.extra
    row.streams = link.session.stream_count
    row.streams_unacked = link.session.unacked_count
    row.requests = link.requests
    row.visitors_waiting = link.opening_count
    if pool != NULL:
        row.direct_idle = pool.idle_count
        row.direct_busy = busy_connections(pool)
        row.direct_wanted = pool.wanted
        row.direct_tickets = pool.ticket_count
    row.ping_misses = link.ping_misses
    row.is_websocket = link.carrier == CARRIER_WEBSOCKET
    row.is_congested = link.is_congested
    row.is_draining = link.is_draining
    row.is_closing = link.is_closing
    row.is_spent = link.is_spent
    row.is_stock_peer = not link.has_preamble
    strncpy(row.peer, link.peer, sizeof(row.peer) - 1)
    put(piece, DUMP_LINK, &row, sizeof(row))


cdef void put_stream(Piece *piece, const Link *link, const YamuxStream *stream) noexcept nogil:
    cdef const HttpStream *http
    cdef DumpStream row
    memset(&row, 0, sizeof(row))
    row.link = link.id
    row.id = stream.id
    row.owner = stream.owner_kind
    row.send_window = stream.send_window
    row.receive_window = stream.receive_window
    row.window = stream.window
    row.unconsumed = stream.unconsumed
    row.ungranted = stream.ungranted
    row.flags = stream.flags
    if stream.owner_kind == OWNER_HTTP:
        http = <const HttpStream *>stream.owner
        if http.pool != NULL:
            row.route = http.pool.route
        if http.visitor != NULL:
            row.visitor_bytes = buffer_size(&http.visitor.conn.out)
        else:
            row.idle_ms = (link.conn.worker.now_us - http.idle_since_us) // 1000 + 1
    put(piece, DUMP_STREAM, &row, sizeof(row))


cdef bint tell_link(Piece *piece, DumpMessage *message, Link *link) noexcept nogil:
    """Whether all has been told that is to be; if not, there is no room in this piece."""
    cdef YamuxStream *stream
    cdef uint32_t end
    if message.bucket == 0:
        if message.device and link.device != message.device:
            return True
        message.links += 1
        if message.links > message.links_max:
            message.streams += link.session.stream_count
            return True
        if room(piece) < 2 * sizeof(DumpLink):
            message.links -= 1
            return False
        put_link(piece, link)
        message.bucket = 1
    end = message.bucket + BUCKETS_PER_TURN
    while message.bucket <= link.session.bucket_count:
        if room(piece) < ROOM_FOR_BUCKET or message.bucket == end:
            return False
        stream = link.session.buckets[message.bucket - 1]
        while stream != NULL:
            message.streams += 1
            if (
                message.streams_told < message.streams_max
                and room(piece) >= 2 * sizeof(DumpStream)
            ):
                message.streams_told += 1
                put_stream(piece, link, stream)
            stream = stream.next
        message.bucket += 1
    return True


cdef void put_worker(Piece *piece, Worker *worker, const DumpMessage *message) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    cdef const BufferPool *pool = &worker.pool
    cdef DumpWorker row
    memset(&row, 0, sizeof(row))
    row.turns = worker.counters[<int>COUNT_TURNS]
    row.routes_version = role.routes_version
    row.buffer_bytes = pool.bytes_lent
    row.buffer_bytes_max = pool.bytes_lent_max
    row.buffer_bytes_kept = pool.bytes_kept
    row.memory_max = worker.memory_max
    row.window_extra = role.host.windows.extra
    row.window_extra_max = role.host.windows.extra_max
    row.log_ring_bytes = spsc_used(&worker.log_ring)
    row.control_ring_bytes = spsc_used(&worker.control_ring)
    memcpy(row.connections, message.connections, sizeof(row.connections))
    memcpy(row.blocks_lent, pool.blocks_lent, sizeof(row.blocks_lent))
    count_kept(pool, row.blocks_kept)
    row.tls = message.tls
    row.handshakes = worker.handshakes
    row.timers = message.timers
    row.next_timer_ms = max(0, timer_wheel_wait_ms(&worker.wheel, worker.now_ms))
    row.waiting_for_bandwidth = role.pace_count
    row.requests = role.active
    row.links = message.links
    row.links_told = min(message.links, message.links_max)
    row.streams = message.streams
    row.streams_told = message.streams_told
    row.pipes_kept = worker.pipes.count
    row.pressure = <uint32_t>worker.pressure
    row.is_draining = worker.is_draining
    put(piece, DUMP_WORKER, &row, sizeof(row))


cdef void count_kept(const BufferPool *pool, uint32_t *counts) noexcept nogil:
    # At most BUFFER_POOL_KEEP_BYTES of them, so at most 4096.
    cdef uint32_t index
    cdef void *block
    for index in range(<uint32_t>BUFFER_CLASS_COUNT):
        block = pool.free_blocks[index]
        while block != NULL:
            counts[index] += 1
            block = (<void **>block)[0]


cdef bint dump_walk(Worker *worker, DumpMessage *message) noexcept nogil:
    cdef uint32_t end = message.cursor + SLOTS_PER_TURN
    cdef bint is_last
    cdef Conn *conn
    cdef Piece piece
    piece.place = worker.scratch
    piece.size = 0
    while message.cursor < min(end, worker.slot_count):
        conn = worker.conns[message.cursor]
        if conn != NULL:
            if message.bucket == 0:
                message.connections[conn.kind] += 1
                message.timers += conn.timer.link != NULL
                message.tls += conn.tls != NULL
            if conn.kind == CONN_LINK and not tell_link(&piece, message, <Link *>conn):
                break
        message.cursor += 1
        message.bucket = 0
    is_last = message.cursor >= worker.slot_count and room(&piece) >= 2 * sizeof(DumpWorker)
    if is_last:
        put_worker(&piece, worker, message)
    if piece.size:
        news_event(
            worker, EVENT_DUMP, message.query, worker.index, is_last, 0, 0, piece.place,
            piece.size, NULL, 0,
        )
    if not is_last:
        crew_post(worker.crew, worker.index, &message.node)
    return not is_last
