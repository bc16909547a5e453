# See dial.pxd.

from libc.errno cimport EAGAIN, ENOMEM, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strlen

from proxy_engine_core.agent.data cimport DataDialer, data_dialer_new
from proxy_engine_core.buffer cimport (
    Buffer, buffer_append, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.events cimport EVENT_DIAL_FAILED
from proxy_engine_core.http1.head cimport (
    FIELD_PROXY_ENGINE_DIRECT, FIELD_PROXY_ENGINE_WINDOW, Field, Head, head_field, head_find_end,
    response_head_parse,
)
from proxy_engine_core.io.conn cimport (
    conn_attach, conn_close, conn_deadline, conn_flush_out, conn_recv,
)
from proxy_engine_core.io.crew cimport crew_drop_link
from proxy_engine_core.io.handshake cimport handshake_start, tls_failure
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.socket cimport (
    ADDRESS_TEXT_SIZE, address_port, address_text, socket_close, socket_connect,
    socket_error, socket_open, socket_tune,
)
from proxy_engine_core.io.tls_openssl cimport (
    TlsContext, tls_context_drop, tls_context_hold,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_DIAL, CONN_READABLE, CONN_WRITABLE, Conn, Worker,
)
from proxy_engine_core.link.establish cimport LinkSetup, link_establish
from proxy_engine_core.messages cimport DialMessage
from proxy_engine_core.yamux.session cimport YAMUX_WINDOW_INITIAL

cdef enum:
    ANSWER_SIZE_MAX = 16 * 1024           # head of the server's answer
    REFUSAL_BODY_MAX = 4096               # bytes of a refusal's body worth keeping
    REFUSAL_WAIT_MS = 1000                # for the rest of a refusal
    READ_SIZE = 8 * 1024
    STREAMS_MAX = 65_000                  # what we stand from a server of ours
    WINDOW_MAX = 16 * 1024 * 1024

cdef struct Dial:
    Conn conn
    Buffer input
    TlsContext *tls                       # a reference; NULL: without
    uint64_t id
    uint32_t scanned
    uint32_t head_size                    # of a refusal, once its head is in
    int status
    DataDialer *direct                    # for the link; NULL: it will have none
    uint8_t carrier
    bint is_connected
    char peer[64]


cdef void dial_init_worker(Worker *worker) noexcept nogil:
    worker.ops[<int>CONN_DIAL].ready = dial_ready
    worker.ops[<int>CONN_DIAL].timeout = dial_timeout
    worker.ops[<int>CONN_DIAL].flush = NULL
    worker.ops[<int>CONN_DIAL].sent = dial_sent
    worker.ops[<int>CONN_DIAL].release = dial_release


cdef void emit_failure(
    Worker *worker, uint64_t dial, const char *reason, int error, int status,
    const uint8_t *answer, uint32_t answer_size, uint32_t head_size
) noexcept nogil:
    news_event(
        worker, EVENT_DIAL_FAILED, dial, <uint64_t>error, <uint64_t>status, head_size, 0,
        reason, <uint32_t>strlen(reason), answer, answer_size,
    )


cdef void dial_not_started(Worker *worker, const DialMessage *message, int error) noexcept nogil:
    crew_drop_link(worker.crew, worker.index)                # Engine.dial() counted it
    emit_failure(worker, message.dial, b"connect", error, 0, NULL, 0, 0)


cdef void dial_fail(Dial *dial, const char *reason, int error) noexcept nogil:
    cdef Worker *worker = dial.conn.worker
    cdef const char *text = tls_failure(&dial.conn)
    crew_drop_link(worker.crew, worker.index)
    if text != NULL and not dial.status:
        emit_failure(
            worker, dial.id, b"tls", EPROTO, 0, <const uint8_t *>text, <uint32_t>strlen(text), 0
        )
    else:
        emit_failure(
            worker, dial.id, reason, error, dial.status, buffer_head(&dial.input),
            buffer_size(&dial.input), dial.head_size,
        )
    conn_close(&dial.conn)


cdef void dial_start(Worker *worker, const DialMessage *message) noexcept nogil:
    cdef Dial *dial = <Dial *>calloc(1, sizeof(Dial))
    cdef char text[ADDRESS_TEXT_SIZE]
    cdef int fd
    if dial == NULL:
        if message.fd >= 0:
            socket_close(message.fd)
        dial_not_started(worker, message, ENOMEM)
        return
    buffer_init(&dial.conn.out, &worker.pool, 0)
    buffer_init(&dial.input, &worker.pool, 0)
    dial.id = message.dial
    dial.carrier = message.carrier
    dial.tls = tls_context_hold(message.tls)
    if message.direct_size and dial.tls == NULL:
        # Without memory for it there are no direct connections.
        dial.direct = data_dialer_new(
            &message.address, <const uint8_t *>(message + 1) + message.size, message.direct_size
        )
    address_text(&message.address, text)
    snprintf(
        dial.peer, sizeof(dial.peer), "%s:%u", text, <unsigned int>address_port(&message.address)
    )
    fd = message.fd
    if fd >= 0:
        socket_tune(fd, &message.address)
    else:
        fd = socket_open(&message.address, 0)         # a link has its pings
        fd = socket_connect(fd, &message.address)
    if fd >= 0:
        fd = conn_attach(worker, &dial.conn, fd, CONN_DIAL)
    if fd < 0:
        dial_not_started(worker, message, -fd)
        dial_release(&dial.conn)
        return
    if buffer_append(&dial.conn.out, <const uint8_t *>(message + 1), message.size) < 0:
        dial_fail(dial, b"connect", ENOMEM)
        return
    conn_deadline(&dial.conn, message.timeout_ms)


cdef void dial_ready(Conn *conn) noexcept nogil:
    cdef Dial *dial = <Dial *>conn
    cdef int error
    if not dial.is_connected:
        if not conn.flags & (CONN_WRITABLE | CONN_BROKEN):
            return
        error = -socket_error(conn.fd)
        if error:
            dial_fail(dial, b"connect", error)
            return
        dial.is_connected = True
        if dial.tls != NULL:
            if not handshake_start(conn, dial.tls):
                dial_fail(dial, b"connect", ENOMEM)
            return                        # it comes here again when its handshake is over
    conn_flush_out(conn)
    read_answer(dial)


cdef void read_answer(Dial *dial) noexcept nogil:
    cdef Conn *conn = &dial.conn
    cdef int64_t received
    while conn.flags & CONN_READABLE:
        received = conn_recv(conn, conn.worker.scratch, READ_SIZE)
        if received == -EAGAIN:
            return
        if received <= 0:
            dial_fail(dial, b"refused" if dial.status else b"closed", <int>-received)
            return
        if buffer_append(&dial.input, conn.worker.scratch, <uint32_t>received) < 0:
            dial_fail(dial, b"connect", ENOMEM)
            return
        if dial.status:
            if buffer_size(&dial.input) - dial.head_size >= REFUSAL_BODY_MAX:
                dial_fail(dial, b"refused", 0)
                return
        elif judge_answer(dial):
            return
    if conn.flags & CONN_BROKEN:
        dial_fail(dial, b"refused" if dial.status else b"closed", 0)


cdef bint judge_answer(Dial *dial) noexcept nogil:
    """True: the dial has become a link, or has ended."""
    cdef Conn *conn = &dial.conn
    cdef Head head
    cdef LinkSetup setup
    cdef uint8_t *bytes = buffer_head(&dial.input)
    cdef uint32_t size = buffer_size(&dial.input)
    cdef uint32_t head_size = head_find_end(bytes, size, &dial.scanned)
    if head_size == 0:
        if size > ANSWER_SIZE_MAX:
            dial_fail(dial, b"bad_response", 0)
            return True
        return False
    if response_head_parse(&head, bytes, head_size) < 0:
        dial_fail(dial, b"bad_response", 0)
        return True
    if head.status != 101:
        dial.status = head.status
        dial.head_size = head_size
        conn_deadline(conn, REFUSAL_WAIT_MS)
        return False
    memset(&setup, 0, sizeof(setup))
    setup.id = dial.id
    setup.carrier = dial.carrier
    setup.is_client = True
    setup.streams_max = STREAMS_MAX
    setup.window = announced_window(&head)
    setup.has_preamble = setup.window != 0
    if setup.window == 0:
        setup.window = YAMUX_WINDOW_INITIAL
    if dial.direct != NULL and head_field(&head, FIELD_PROXY_ENGINE_DIRECT) != NULL:
        setup.direct = dial.direct
    if link_establish(
        conn, &setup, dial.peer, bytes, head_size, bytes + head_size, size - head_size
    ) != NULL:
        if setup.direct != NULL:
            dial.direct = NULL            # the link's now
    else:
        # The link that was none is counted off already.
        emit_failure(conn.worker, dial.id, b"connect", ENOMEM, 0, NULL, 0, 0)
    return True


cdef uint32_t announced_window(const Head *head) noexcept nogil:
    # Proxy-Engine-Window of a server of ours; 0: a stock one, or nonsense.
    cdef const Field *field = head_field(head, FIELD_PROXY_ENGINE_WINDOW)
    cdef uint64_t value = 0
    cdef uint32_t index
    cdef uint8_t byte
    if field == NULL or field.value.size > 8:
        return 0
    for index in range(field.value.size):
        byte = head.bytes[field.value.start + index]
        if not c'0' <= byte <= c'9':
            return 0
        value = value * 10 + (byte - c'0')
    if value < YAMUX_WINDOW_INITIAL or value > WINDOW_MAX:
        return 0
    return <uint32_t>value


cdef void dial_timeout(Conn *conn) noexcept nogil:
    cdef Dial *dial = <Dial *>conn
    dial_fail(dial, b"refused" if dial.status else b"timeout", 0)


cdef void dial_sent(Conn *conn) noexcept nogil:
    pass


cdef void dial_release(Conn *conn) noexcept nogil:
    cdef Dial *dial = <Dial *>conn
    buffer_free(&dial.input)
    free(dial.direct)
    tls_context_drop(dial.tls)
    free(dial)
