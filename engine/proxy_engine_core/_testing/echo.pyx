# A WebSocket echo on the engine's own worker loop, so that public suites and load clients
# meet our codec as the engine runs it: no Python and no GIL between recv() and send().
# Connections come with their handshake done (echo_server.py does it); each message goes
# back as it came, pings are answered, closes are answered and end the connection.

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from proxy_engine_core.atomic cimport atomic_load_relaxed
from proxy_engine_core.buffer cimport (
    Buffer, buffer_consume, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.counters cimport COUNT_CONNECTIONS_CLOSED
from proxy_engine_core.io.conn cimport (
    conn_attach, conn_close, conn_deadline, conn_finish_writing, conn_flush_out, conn_recv,
    conn_requeue,
)
from proxy_engine_core.io.crew cimport crew_init
from proxy_engine_core.io.mailbox cimport MailboxNode, mailbox_post
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_READABLE, CONN_VISITOR, WORKER_SCRATCH_SIZE, Conn, Crew, Worker,
    worker_ask_to_stop, worker_close_conns, worker_free, worker_join, worker_new, worker_random,
    worker_start,
)
from proxy_engine_core.options cimport Options, options_read
from proxy_engine_core.websocket.deflate cimport (
    WS_WINDOW_BITS_MIN, WsDeflate, ws_deflate, ws_deflate_free, ws_deflate_init,
)
from proxy_engine_core.websocket.frame cimport (
    WS_CLOSE, WS_COMPRESSED, WS_EVENT_CLOSE, WS_EVENT_DATA, WS_EVENT_PING, WS_PONG, WsEvent,
)
from proxy_engine_core.websocket.message cimport (
    WsMessages, ws_frame_write, ws_messages_free, ws_messages_init, ws_messages_next,
)
from proxy_engine_core.wire cimport store_be16


cdef enum:
    MESSAGE_ADOPT = 1
    CLOSE_NO_STATUS = 1005
    OUT_HIGH = 1024 * 1024        # bytes waiting: reading stops
    READS_MAX = 4                 # before other connections get a turn
    ENDING_MS = 2000              # for the peer to end the connection after the closes

cdef struct Echo:
    Conn conn
    WsMessages messages
    int window_bits               # 0: no permessage-deflate
    bint is_client
    bint is_ending                # our Close is out, or on its way

cdef struct EchoRole:
    WsDeflate deflate
    Buffer deflated
    uint64_t size_max

cdef struct Adoption:
    MailboxNode node
    int fd
    int window_bits
    bint is_client
    uint32_t early_size           # bytes behind the handshake; they follow this struct


cdef inline EchoRole *role_of(Echo *echo) noexcept nogil:
    return <EchoRole *>echo.conn.worker.role


cdef const uint8_t *new_key(Echo *echo, uint8_t *key) noexcept nogil:
    cdef uint64_t bits
    if not echo.is_client:
        return NULL
    bits = worker_random(echo.conn.worker)
    memcpy(key, &bits, 4)
    return key


cdef void say_close(Echo *echo, uint16_t code) noexcept nogil:
    cdef uint8_t payload[2]
    cdef uint8_t key[4]
    store_be16(payload, code)
    ws_frame_write(
        &echo.conn.out, WS_CLOSE, True, payload, 0 if code == CLOSE_NO_STATUS else 2,
        new_key(echo, key),
    )
    echo.is_ending = True
    conn_deadline(&echo.conn, ENDING_MS)


cdef int echo_message(Echo *echo, const WsEvent *event) noexcept nogil:
    # Compressed even where that does not pay: the suite's clients that asked for compression
    # understand nothing else.
    cdef EchoRole *role = role_of(echo)
    cdef const uint8_t *payload = event.data
    cdef size_t size = event.size
    cdef uint8_t opcode = event.opcode
    cdef uint8_t key[4]
    cdef int error
    if echo.window_bits >= WS_WINDOW_BITS_MIN:
        size = ws_deflate(
            &role.deflate, echo.window_bits, event.data, event.size, &role.deflated,
            event.size + event.size // 8 + 64,
        )
        if size == 0:
            return -ENOMEM
        payload = buffer_head(&role.deflated)
        opcode |= WS_COMPRESSED
    error = ws_frame_write(&echo.conn.out, opcode, True, payload, size, new_key(echo, key))
    buffer_free(&role.deflated)
    return error


cdef int echo_events(Echo *echo, uint8_t *source, size_t size) noexcept nogil:
    """Put the answers to this input into conn.out; 0 or -ENOMEM."""
    cdef uint8_t *cursor = source
    cdef uint8_t *end = source + size
    cdef uint8_t key[4]
    cdef WsEvent event
    cdef int kind
    cdef int error = 0
    while error == 0 and not echo.is_ending:
        kind = ws_messages_next(&echo.messages, &cursor, end, &event)
        if kind == 0:
            break
        if kind == WS_EVENT_DATA:
            error = echo_message(echo, &event)
        elif kind == WS_EVENT_PING:
            error = ws_frame_write(
                &echo.conn.out, WS_PONG, True, event.data, event.size, new_key(echo, key)
            )
        elif kind == WS_EVENT_CLOSE:
            say_close(echo, event.close_code)
        elif kind < 0:
            say_close(echo, <uint16_t>-kind)
    return error


cdef void echo_receive(Echo *echo, uint8_t *source, size_t size) noexcept nogil:
    if echo.is_ending:
        return
    if echo_events(echo, source, size) < 0:
        conn_close(&echo.conn)
        return
    conn_flush_out(&echo.conn)


cdef void echo_ready(Conn *conn) noexcept nogil:
    cdef Echo *echo = <Echo *>conn
    cdef int64_t received
    cdef int _
    if conn.flags & CONN_BROKEN:
        conn_close(conn)
        return
    conn_flush_out(conn)
    for _ in range(READS_MAX):
        if not conn.flags & CONN_READABLE or buffer_size(&conn.out) > OUT_HIGH:
            return                        # epoll, or echo_sent(), brings us back
        received = conn_recv(conn, conn.worker.scratch, WORKER_SCRATCH_SIZE)
        if received == -EAGAIN:
            return
        if received <= 0:
            conn_close(conn)
            return
        echo_receive(echo, conn.worker.scratch, received)
    conn_requeue(conn)


cdef void echo_sent(Conn *conn) noexcept nogil:
    cdef Echo *echo = <Echo *>conn
    if buffer_size(&conn.out) == 0 and echo.is_ending and not echo.is_client:
        # The server ends the connection (section 7.1.1), but by a FIN only: closing with
        # unread input would reset it, and the peer might not see our Close.
        conn_finish_writing(conn)
    elif conn.flags & CONN_READABLE:
        conn_requeue(conn)


cdef void echo_timeout(Conn *conn) noexcept nogil:
    buffer_consume(&conn.out, buffer_size(&conn.out))
    conn_close(conn)


cdef void echo_release(Conn *conn) noexcept nogil:
    ws_messages_free(&(<Echo *>conn).messages)
    free(conn)


cdef void adopt(Worker *worker, Adoption *adoption) noexcept nogil:
    cdef EchoRole *role = <EchoRole *>worker.role
    cdef Echo *echo = <Echo *>calloc(1, sizeof(Echo))
    if echo == NULL:
        return
    buffer_init(&echo.conn.out, &worker.pool, 0)
    echo.is_client = adoption.is_client
    echo.window_bits = adoption.window_bits
    ws_messages_init(
        &echo.messages, not echo.is_client, role.size_max, False, &worker.pool,
        &role.deflate if echo.window_bits else NULL,
    )
    if conn_attach(worker, &echo.conn, adoption.fd, CONN_VISITOR) < 0:
        free(echo)
        return
    if adoption.early_size:
        echo_receive(echo, <uint8_t *>(adoption + 1), adoption.early_size)


cdef bint on_message(Worker *worker, MailboxNode *message) noexcept nogil:
    if message.kind == MESSAGE_ADOPT:
        adopt(worker, <Adoption *>message)
    return False


@cython.final
cdef class EchoWorker:
    """One worker thread that echoes on the connections it is given."""

    cdef Crew crew
    cdef Worker *worker
    cdef Options options
    cdef EchoRole role
    cdef int python_fd

    def __cinit__(self, uint64_t max_message_size):
        self.python_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        options_read(&self.options, {})
        crew_init(&self.crew, 1)
        self.worker = worker_new(&self.crew, 0, self.python_fd, &self.options)
        if self.worker == NULL:
            raise MemoryError
        ws_deflate_init(&self.role.deflate)
        buffer_init(&self.role.deflated, &self.worker.pool, 0)
        self.role.size_max = max_message_size
        self.worker.role = &self.role
        self.worker.on_message = on_message
        self.worker.ops[<int>CONN_VISITOR].ready = echo_ready
        self.worker.ops[<int>CONN_VISITOR].timeout = echo_timeout
        self.worker.ops[<int>CONN_VISITOR].sent = echo_sent
        self.worker.ops[<int>CONN_VISITOR].release = echo_release
        if worker_start(self.worker) < 0:
            raise OSError("no thread for the worker")

    def __dealloc__(self):
        if self.worker != NULL:
            worker_ask_to_stop(self.worker)
            worker_join(self.worker)
            worker_close_conns(self.worker)
            buffer_free(&self.role.deflated)
            ws_deflate_free(&self.role.deflate)
            self.worker.role = NULL
            worker_free(self.worker)
        os.close(self.python_fd)

    def adopt(self, int fd, *, bint is_client, int window_bits=0, bytes early=b""):
        """Echo on this socket, after its handshake; takes the fd over."""
        cdef uint32_t early_size = <uint32_t>PyBytes_GET_SIZE(early)
        cdef Adoption *adoption = <Adoption *>calloc(1, sizeof(Adoption) + early_size)
        if adoption == NULL:
            raise MemoryError
        os.set_blocking(fd, False)
        adoption.node.kind = MESSAGE_ADOPT
        adoption.fd = fd
        adoption.is_client = is_client
        adoption.window_bits = window_bits
        adoption.early_size = early_size
        memcpy(adoption + 1, PyBytes_AS_STRING(early), early_size)
        mailbox_post(&self.worker.mailbox, &adoption.node)

    @property
    def closed(self):
        """Connections adopted and gone again."""
        return atomic_load_relaxed(&self.worker.counters[<int>COUNT_CONNECTIONS_CLOSED])
