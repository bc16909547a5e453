# See move.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from proxy_engine_core.buffer cimport buffer_append, buffer_free, buffer_head, buffer_size
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_LINKS_MOVED, COUNT_MEMORY_ERRORS, COUNT_REQUESTS_ABORTED, COUNT_VISITORS_HELD,
    COUNT_VISITORS_MOVED_IN, COUNT_VISITORS_MOVED_OUT, count,
)
from proxy_engine_core.forward.admission cimport admission_enter
from proxy_engine_core.forward.link_request cimport visitor_establish
from proxy_engine_core.forward.route cimport TUNNEL_NAME_SIZE_MAX
from proxy_engine_core.forward.transaction cimport (
    VISITOR_TCP_OPENING, ServerRole, Transaction, Visitor, server_of, transaction_free,
    transaction_new, transaction_set_tcp, visitor_close,
)
from proxy_engine_core.forward.visitor cimport visitor_new
from proxy_engine_core.io.conn cimport conn_attach, conn_deadline, conn_detach, conn_requeue
from proxy_engine_core.io.crew cimport crew_conn_arrived, crew_drop_link, crew_send_conn
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.socket cimport socket_close, socket_reset_on_close
from proxy_engine_core.io.tls cimport tls_free, tls_give, tls_take
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_HUP, CONN_READABLE, CONN_VISITOR, CONN_WRITABLE, Worker,
)
from proxy_engine_core.link.establish cimport LinkSetup
from proxy_engine_core.messages cimport MESSAGE_MOVE
from proxy_engine_core.quota cimport quota_drop, quota_hold


# --- out ----------------------------------------------------------------------------------

cdef MoveMessage *pack(Visitor *visitor, const uint8_t *bytes, uint32_t size) noexcept nogil:
    """Everything a visitor is, but its request. NULL: no memory."""
    cdef MoveMessage *message = <MoveMessage *>malloc(sizeof(MoveMessage) + size)
    if message == NULL:
        count(visitor.conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        return NULL
    memset(message, 0, sizeof(MoveMessage))
    message.node.kind = MESSAGE_MOVE
    message.routes_version = server_of(visitor.conn.worker).routes_version
    message.flags = visitor.conn.flags & (
        CONN_READABLE | CONN_WRITABLE | CONN_HUP | CONN_BROKEN
    )
    message.port = visitor.port
    message.address_key = visitor.address_key
    message.bytes_passed = visitor.bytes_passed
    message.requests = visitor.requests
    message.address_size = visitor.address_size
    memcpy(message.address, visitor.address, sizeof(message.address))
    message.size = size
    if size:
        memcpy(message + 1, bytes, size)
    return message


cdef bint visitor_move(
    Visitor *visitor, uint32_t index, const uint8_t *bytes, uint32_t size
) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    cdef MoveMessage *message = pack(visitor, bytes, size)
    CHECK(visitor.opening_link == NULL and transaction.http == NULL)
    if message == NULL:
        return False
    message.deadline_ms = visitor.conn.timer.deadline_ms
    message.started_us = transaction.started_us
    message.refused_by = transaction.refused_by
    message.log_flags = transaction.log_flags
    message.is_waiting = transaction.is_waiting
    message.is_admitted = transaction.is_admitted
    message.is_quota_admitted = transaction.is_quota_admitted
    message.setup.quota = transaction.joined_by
    quota_hold(message.setup.quota)
    message.moves = transaction.moves + 1
    message.request_id_size = transaction.request_id_size
    memcpy(message.request_id, transaction.request_id, transaction.request_id_size)
    message.trace_size = transaction.trace_size
    message.trace_flags = transaction.trace_flags
    if transaction.trace_size:
        message.trace = transaction.trace
    if transaction.is_tcp:
        CHECK(0 < transaction.host_size <= TUNNEL_NAME_SIZE_MAX)
        message.tunnel_size = transaction.host_size
        memcpy(message.tunnel, transaction.host, transaction.host_size)
    transaction_free(visitor)
    # Counted first: nobody may see it arrive before it has left.
    count(worker.counters, COUNT_VISITORS_MOVED_OUT, 1)
    send(visitor, index, message)
    return True


cdef bint device_move(Visitor *visitor, uint32_t index, const LinkSetup *setup) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef MoveMessage *message = pack(
        visitor, buffer_head(&visitor.input), buffer_size(&visitor.input)
    )
    if message == NULL:
        return False
    message.is_device = True
    message.setup = setup[0]
    quota_hold(message.setup.quota)
    count(worker.counters, COUNT_LINKS_MOVED, 1)
    send(visitor, index, message)
    return True


cdef void send(Visitor *visitor, uint32_t index, MoveMessage *message) noexcept nogil:
    message.tls = tls_take(&visitor.conn)
    message.fd = conn_detach(&visitor.conn)
    buffer_free(&visitor.input)
    crew_send_conn(visitor.conn.worker.crew, index, &message.node)


# --- in -----------------------------------------------------------------------------------

cdef bint move_receive(Worker *worker, MoveMessage *message) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    if message.routes_version > role.routes_version:
        count(worker.counters, COUNT_VISITORS_HELD, 1)
        message.node.next = role.early_moves
        role.early_moves = &message.node
        return True
    arrive(worker, message)
    quota_drop(message.setup.quota)
    return False


cdef void moves_resume(ServerRole *role) noexcept nogil:
    cdef MailboxNode *node = role.early_moves
    cdef MailboxNode *following
    role.early_moves = NULL
    while node != NULL:
        following = node.next
        if not move_receive(role.worker, <MoveMessage *>node):
            free(node)
        node = following


cdef void arrive(Worker *worker, MoveMessage *message) noexcept nogil:
    cdef Visitor *visitor = visitor_new(worker)
    crew_conn_arrived(worker)
    if visitor == NULL:
        move_discard(message)
        lost(worker, message)
        return
    visitor.port = message.port
    visitor.address_key = message.address_key
    visitor.bytes_passed = message.bytes_passed
    visitor.requests = message.requests
    visitor.address_size = message.address_size
    memcpy(visitor.address, message.address, sizeof(visitor.address))
    if conn_attach(worker, &visitor.conn, message.fd, CONN_VISITOR) < 0:
        tls_free(message.tls)
        free(visitor)
        lost(worker, message)
        return
    tls_give(&visitor.conn, message.tls)
    visitor.conn.flags |= message.flags
    admission_enter(visitor)
    if message.is_device:
        visitor_establish(visitor, &message.setup, <uint8_t *>(message + 1), message.size)
        return
    count(worker.counters, COUNT_VISITORS_MOVED_IN, 1)
    if transaction_new(visitor) == NULL:
        socket_reset_on_close(visitor.conn.fd)
        visitor_close(visitor)
        lost(worker, message)
        return
    if buffer_append(&visitor.input, message + 1, message.size) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        socket_reset_on_close(visitor.conn.fd)
        visitor_close(visitor)
        lost(worker, message)
        return
    unpack(visitor.transaction, message)
    # The clock of a worker is read once a turn: that of the one it comes from may be ahead of ours.
    visitor.transaction.started_us = min(visitor.transaction.started_us, worker.now_us)
    if message.tunnel_size:
        transaction_set_tcp(visitor.transaction, message.tunnel, message.tunnel_size)
        visitor.state = VISITOR_TCP_OPENING
    if message.deadline_ms:
        conn_deadline(
            &visitor.conn,
            message.deadline_ms - worker.now_ms if message.deadline_ms > worker.now_ms else 1,
        )
    conn_requeue(&visitor.conn)


cdef void unpack(Transaction *transaction, const MoveMessage *message) noexcept nogil:
    transaction.started_us = message.started_us
    transaction.refused_by = message.refused_by
    transaction.log_flags = message.log_flags
    transaction.is_waiting = message.is_waiting
    transaction.is_admitted = message.is_admitted
    transaction.is_quota_admitted = message.is_quota_admitted
    transaction.joined_by = message.setup.quota
    quota_hold(transaction.joined_by)
    transaction.moves = message.moves
    transaction.request_id_size = message.request_id_size
    memcpy(transaction.request_id, message.request_id, message.request_id_size)
    transaction.trace_size = message.trace_size
    transaction.trace_flags = message.trace_flags
    transaction.trace = message.trace


cdef void lost(Worker *worker, const MoveMessage *message) noexcept nogil:
    # It could not be taken in, and its socket is closed.
    if message.is_device:
        crew_drop_link(worker.crew, worker.index)
    else:
        count(worker.counters, COUNT_REQUESTS_ABORTED, 1)


cdef void move_discard(MoveMessage *message) noexcept nogil:
    tls_free(message.tls)
    socket_reset_on_close(message.fd)     # never an end that looks as if all were well
    socket_close(message.fd)
