# See data.pxd.

from libc.errno cimport EAGAIN, ETIMEDOUT
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from proxy_engine_core.agent.connect cimport (
    TargetConn, reset_code, target_conn_failed, target_conn_free, target_conn_init,
    target_conn_start, target_conn_step,
)
from proxy_engine_core.agent.role cimport agent_of, find_entry
from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_free, buffer_head, buffer_init, buffer_size,
)
from proxy_engine_core.counters cimport (
    COUNT_DIRECT_CONNECTIONS, COUNT_DIRECT_DIALS_FAILED, COUNT_MEMORY_ERRORS,
    COUNT_MEMORY_REFUSED, COUNT_TIMEOUTS, count,
)
from proxy_engine_core.http1.head cimport Head, head_find_end, response_head_parse
from proxy_engine_core.io.acks cimport acks_read, acks_wrote
from proxy_engine_core.io.conn cimport (
    conn_abort, conn_attach, conn_close, conn_deadline, conn_flush_out, conn_recv, conn_requeue,
    conn_write,
)
from proxy_engine_core.io.parting cimport conn_part
from proxy_engine_core.io.pressure cimport PRESSURE_WORK
from proxy_engine_core.io.profile cimport profile_apply, profile_get
from proxy_engine_core.io.relay cimport (
    RELAY_DONE, RELAY_GOES_ON, RELAY_WAITS, relay_free, relay_move,
)
from proxy_engine_core.io.socket cimport socket_connect, socket_error, socket_open
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_DATA, CONN_DIRECT_TARGET, CONN_READABLE, CONN_WRITABLE, Conn,
    Worker, conn_handle, worker_conn,
)
from proxy_engine_core.link.control cimport link_send_ended
from proxy_engine_core.link.link cimport DATA_NAME_SIZE, TICKET_SIZE, Link
from proxy_engine_core.messages cimport TARGET_PROXY_HEADER
from proxy_engine_core.proxy_protocol cimport Preamble, preamble_decode
from proxy_engine_core.wire cimport load_be64, store_be64
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_PROTOCOL, YAMUX_RESET_REFUSED, YAMUX_RESET_UNKNOWN_TUNNEL,
)

cdef enum:
    IDLE_MAX = 64                         # that the server may have us keep ready
    ANSWER_SIZE_MAX = 4096
    ANSWER_TIMEOUT_MS = 10_000            # a ticket lives no longer

cdef enum DataEnd:
    DATA_ENDS
    DATA_RESET                            # not by an end that looks complete ...
    DATA_PARTS                            # ... nor before all that was said has arrived
    READ_SIZE = 4096
    FIELD_SIZE = 2 * TICKET_SIZE + 4      # a ticket's digits and the end of the head

cdef const char *HEX = "0123456789abcdef"


cdef void data_init_worker(Worker *worker) noexcept nogil:
    worker.ops[<int>CONN_DATA].ready = data_ready
    worker.ops[<int>CONN_DATA].timeout = data_timeout
    worker.ops[<int>CONN_DATA].flush = NULL
    worker.ops[<int>CONN_DATA].sent = nothing_sent
    worker.ops[<int>CONN_DATA].release = data_release
    worker.ops[<int>CONN_DIRECT_TARGET].ready = target_ready
    worker.ops[<int>CONN_DIRECT_TARGET].timeout = target_timeout
    worker.ops[<int>CONN_DIRECT_TARGET].flush = NULL
    worker.ops[<int>CONN_DIRECT_TARGET].sent = nothing_sent
    worker.ops[<int>CONN_DIRECT_TARGET].release = target_release


cdef void nothing_sent(Conn *conn) noexcept nogil:
    pass


# --- dialling -----------------------------------------------------------------------------

cdef DataDialer *data_dialer_new(
    const Address *server, const uint8_t *request, uint32_t size
) noexcept nogil:
    cdef DataDialer *dialer = <DataDialer *>malloc(sizeof(DataDialer) + size)
    if dialer == NULL:
        return NULL
    dialer.server = server[0]
    dialer.first = NULL
    dialer.idle_count = 0
    dialer.size = size
    memcpy(dialer + 1, request, size)
    return dialer


cdef void data_dial(Link *link, const uint8_t *tickets, uint32_t size) noexcept nogil:
    cdef DataDialer *dialer = <DataDialer *>link.direct
    cdef uint32_t _ticket
    if dialer == NULL or link.conn.worker.is_draining:
        return
    for _ticket in range(size // TICKET_SIZE):
        if dialer.idle_count >= IDLE_MAX or not dial_one(link, dialer, tickets):
            count(link.conn.worker.counters, COUNT_DIRECT_DIALS_FAILED, 1)
        tickets += TICKET_SIZE


cdef bint dial_one(Link *link, DataDialer *dialer, const uint8_t *ticket) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef Data *data = <Data *>calloc(1, sizeof(Data))
    cdef uint8_t field[FIELD_SIZE]
    cdef uint32_t index
    cdef int fd
    if data == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return False
    buffer_init(&data.conn.out, &worker.pool, 0)
    buffer_init(&data.input, &worker.pool, 0)
    for index in range(TICKET_SIZE):
        field[2 * index] = <uint8_t>HEX[ticket[index] >> 4]
        field[2 * index + 1] = <uint8_t>HEX[ticket[index] & 15]
    memcpy(field + 2 * TICKET_SIZE, b"\r\n\r\n", 4)
    fd = socket_open(&dialer.server, worker.options.tcp_keepalive_ms)
    fd = socket_connect(fd, &dialer.server)
    if fd >= 0:
        fd = conn_attach(worker, &data.conn, fd, CONN_DATA)
    if fd < 0:
        free(data)
        return False
    data.link = link
    data.next = dialer.first
    if dialer.first != NULL:
        dialer.first.previous = data
    dialer.first = data
    dialer.idle_count += 1
    if buffer_append(&data.conn.out, dialer + 1, dialer.size) < 0 or buffer_append(
        &data.conn.out, field, FIELD_SIZE
    ) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        data_end(data, DATA_ENDS)
        return False
    conn_deadline(&data.conn, ANSWER_TIMEOUT_MS)
    return True


# --- the end ------------------------------------------------------------------------------

cdef void data_end(Data *data, DataEnd how) noexcept nogil:
    """Close it and its target."""
    cdef Worker *worker = data.conn.worker
    cdef DataDialer *dialer = <DataDialer *>data.link.direct
    cdef DirectTarget *target = data.target
    if data.conn.flags & CONN_CLOSED:
        return
    if data.next != NULL:
        data.next.previous = data.previous
    if data.previous != NULL:
        data.previous.next = data.next
    else:
        dialer.first = data.next
    if data.state < DATA_TARGET:
        dialer.idle_count -= 1
    relay_free(&data.up, worker)
    relay_free(&data.down, worker)
    buffer_free(&data.input)
    close_as(&data.conn, how)
    data.target = NULL
    if target != NULL:
        target.data = NULL
        if target.base.conn.fd < 0:
            target_release(&target.base.conn)  # never had a connection
            return
        close_as(&target.base.conn, how)


cdef void close_as(Conn *conn, DataEnd how) noexcept nogil:
    if how == DATA_PARTS:
        conn_part(conn)
    elif how == DATA_RESET:
        conn_abort(conn)
    conn_close(conn)


cdef void data_close(Link *link) noexcept nogil:
    cdef DataDialer *dialer = <DataDialer *>link.direct
    if dialer == NULL:
        return
    while dialer.first != NULL:
        data_end(dialer.first, DATA_RESET if dialer.first.state == DATA_OPEN else DATA_ENDS)
    link.direct = NULL
    free(dialer)


cdef void data_release(Conn *conn) noexcept nogil:
    free(conn)


cdef void data_timeout(Conn *conn) noexcept nogil:
    count(conn.worker.counters, COUNT_DIRECT_DIALS_FAILED, 1)
    data_end(<Data *>conn, DATA_ENDS)


# --- from the server ------------------------------------------------------------------------

cdef void data_ready(Conn *conn) noexcept nogil:
    cdef Data *data = <Data *>conn
    if data.state == DATA_OPEN:
        run(data)
        return
    if data.state == DATA_CONNECTING:
        if not conn.flags & (CONN_WRITABLE | CONN_BROKEN):
            return
        if socket_error(conn.fd) < 0 or conn.flags & CONN_BROKEN:
            count(conn.worker.counters, COUNT_DIRECT_DIALS_FAILED, 1)
            data_end(data, DATA_ENDS)
            return
        data.state = DATA_ASKED
    conn_flush_out(conn)
    if data.state < DATA_TARGET:
        read_input(data)
    elif conn.flags & CONN_BROKEN:
        data_end(data, DATA_PARTS)


cdef void read_input(Data *data) noexcept nogil:
    """The answer, then the header of a visitor."""
    cdef Conn *conn = &data.conn
    cdef int64_t received
    while conn.flags & CONN_READABLE and data.state < DATA_TARGET:
        received = conn_recv(conn, conn.worker.scratch, READ_SIZE)
        if received == -EAGAIN:
            break
        if received <= 0 or buffer_append(
            &data.input, conn.worker.scratch, <uint32_t>received
        ) < 0:
            data_fail(data)
            return
        if data.state == DATA_ASKED and not take_answer(data):
            return
        if data.state == DATA_IDLE and not take_header(data):
            return
    if conn.flags & CONN_BROKEN:
        data_fail(data)


cdef void data_fail(Data *data) noexcept nogil:
    if data.state < DATA_IDLE:
        count(data.conn.worker.counters, COUNT_DIRECT_DIALS_FAILED, 1)
    data_end(data, DATA_RESET if data.state == DATA_TARGET else DATA_ENDS)


cdef bint take_answer(Data *data) noexcept nogil:
    """False: it has ended."""
    cdef Head head
    cdef uint8_t *bytes = buffer_head(&data.input)
    cdef uint32_t size = buffer_size(&data.input)
    cdef uint32_t head_size = head_find_end(bytes, size, &data.scanned)
    if head_size == 0 and size <= ANSWER_SIZE_MAX:
        return True
    if (
        head_size == 0 or response_head_parse(&head, bytes, head_size) < 0 or head.status != 101
    ):
        data_fail(data)
        return False
    buffer_consume(&data.input, head_size)
    data.state = DATA_IDLE
    conn_deadline(&data.conn, 0)
    return True


cdef bint take_header(Data *data) noexcept nogil:
    """False: it has ended."""
    cdef Worker *worker = data.conn.worker
    cdef Preamble preamble
    cdef uint8_t *bytes = buffer_head(&data.input)
    cdef uint32_t size = buffer_size(&data.input)
    cdef DirectTarget *target
    cdef int entry, used
    if size <= DATA_NAME_SIZE:
        return True
    bytes += DATA_NAME_SIZE
    used = preamble_decode(bytes, size - DATA_NAME_SIZE, &preamble)
    if used == 0:
        return True
    (<DataDialer *>data.link.direct).idle_count -= 1
    data.state = DATA_TARGET
    if used < 0 or preamble.tunnel == NULL:
        refuse(data, YAMUX_RESET_PROTOCOL)
        return False
    if worker.pressure >= PRESSURE_WORK:
        count(worker.counters, COUNT_MEMORY_REFUSED, 1)
        refuse(data, YAMUX_RESET_REFUSED)
        return False
    entry = find_entry(agent_of(worker), preamble.tunnel, preamble.tunnel_size, 0)
    if entry < 0:
        refuse(data, YAMUX_RESET_UNKNOWN_TUNNEL)
        return False
    data.up.profile = profile_get(preamble.profile)
    data.down.profile = data.up.profile
    profile_apply(data.up.profile, data.conn.fd)
    target = target_new(data, <uint32_t>entry)
    if target == NULL:
        refuse(data, YAMUX_RESET_REFUSED)
        return False
    data.peer_name = load_be64(bytes - DATA_NAME_SIZE)
    data.up.awaits_word = True
    buffer_consume(&data.input, DATA_NAME_SIZE)
    if not agent_of(worker).targets[entry].flags & TARGET_PROXY_HEADER:
        buffer_consume(&data.input, <uint32_t>used)
    count(worker.counters, COUNT_DIRECT_CONNECTIONS, 1)
    target_connect(target)
    return data.state == DATA_TARGET and not data.conn.flags & CONN_CLOSED


cdef void refuse(Data *data, uint32_t code) noexcept nogil:
    cdef uint8_t answer = <uint8_t>code
    conn_write(&data.conn, &answer, 1)
    data_end(data, DATA_ENDS)


# --- the target -----------------------------------------------------------------------------

cdef DirectTarget *target_new(Data *data, uint32_t entry) noexcept nogil:
    cdef Worker *worker = data.conn.worker
    cdef DirectTarget *target = <DirectTarget *>calloc(1, sizeof(DirectTarget))
    if target == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    target_conn_init(&target.base, worker, CONN_DIRECT_TARGET)
    target.data = data
    target.base.entry = entry
    target.base.profile = data.up.profile
    data.target = target
    return target


cdef void target_release(Conn *conn) noexcept nogil:
    target_conn_free(<TargetConn *>conn)
    free(conn)


cdef void target_connect(DirectTarget *target) noexcept nogil:
    cdef int error = target_conn_start(&target.base)
    if error < 0:
        connect_failed(target, -error)


cdef void connect_failed(DirectTarget *target, int error) noexcept nogil:
    """On to the next address of the tunnel, or the server is told."""
    cdef Data *data = target.data
    cdef int following = target_conn_failed(&target.base, error)
    target.data = NULL
    data.target = NULL
    if target.base.conn.fd < 0:
        target_release(&target.base.conn)
    else:
        conn_close(&target.base.conn)
    if following >= 0:
        target = target_new(data, <uint32_t>following)
        if target != NULL:
            target_connect(target)
            return
    refuse(data, reset_code(error))


cdef void target_timeout(Conn *conn) noexcept nogil:
    count(conn.worker.counters, COUNT_TIMEOUTS, 1)
    connect_failed(<DirectTarget *>conn, ETIMEDOUT)


cdef void target_ready(Conn *conn) noexcept nogil:
    cdef DirectTarget *target = <DirectTarget *>conn
    cdef Data *data = target.data
    cdef uint8_t answer[1 + DATA_NAME_SIZE]
    cdef int error
    if data.state == DATA_OPEN:
        run(data)
        return
    error = target_conn_step(&target.base)
    if error == -EAGAIN:
        return
    if error < 0:
        connect_failed(target, -error)
        return
    data.state = DATA_OPEN
    answer[0] = 0
    store_be64(answer + 1, conn_handle(&data.conn))
    conn_write(&data.conn, answer, sizeof(answer))
    if buffer_size(&data.input):
        conn_write(conn, buffer_head(&data.input), buffer_size(&data.input))
        buffer_free(&data.input)
    run(data)


cdef void run(Data *data) noexcept nogil:
    cdef DirectTarget *target = data.target
    cdef uint64_t up_before = data.up.bytes
    cdef uint64_t down_before = data.down.bytes
    cdef int up = relay_move(&data.up, &data.conn, &target.base.conn)
    cdef int down = relay_move(&data.down, &target.base.conn, &data.conn)
    if data.up.bytes != up_before:
        acks_wrote(&target.acks)
    if data.down.bytes != down_before:
        acks_read(&target.acks, &target.base.conn)
    if down == RELAY_DONE and not data.has_word:
        data.has_word = True
        link_send_ended(data.link, data.peer_name)
        if data.conn.flags & CONN_CLOSED:
            return                        # the link ended of it
    if up == RELAY_DONE and down == RELAY_DONE:
        data_end(data, DATA_ENDS)
    elif data.conn.flags & CONN_BROKEN and up != RELAY_WAITS and up != RELAY_GOES_ON:
        data_end(data, DATA_PARTS)
    elif target.base.conn.flags & CONN_BROKEN and down != RELAY_WAITS and down != RELAY_GOES_ON:
        data_end(data, DATA_PARTS)
    elif up == RELAY_GOES_ON or down == RELAY_GOES_ON:
        conn_requeue(&data.conn)


cdef bint data_ended(Link *link, uint64_t name) noexcept nogil:
    cdef Conn *conn = worker_conn(link.conn.worker, name)
    if conn == NULL or conn.kind != CONN_DATA or (<Data *>conn).link != link:
        return False
    (<Data *>conn).up.awaits_word = False
    conn_requeue(conn)
    return True
