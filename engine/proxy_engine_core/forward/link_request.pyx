# Devices that ask for a link. See link_request.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy

from proxy_engine_core.buffer cimport buffer_consume, buffer_head, buffer_size
from proxy_engine_core.counters cimport (
    COUNT_AUTH_ASKED, COUNT_AUTH_REFUSED, COUNT_TCP_CONNECTIONS, count,
)
from proxy_engine_core.events cimport EVENT_AUTH
from proxy_engine_core.forward.direct cimport asks_for_data, data_arrive
from proxy_engine_core.forward.move cimport device_move
from proxy_engine_core.forward.transaction cimport (
    VISITOR_AUTH, VISITOR_TCP_OPENING, Transaction, Visitor, server_of, transaction_fail,
    transaction_free, transaction_set_tcp, visitor_close, visitor_finish,
)
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.conn cimport conn_deadline, conn_owed, conn_requeue, conn_write
from proxy_engine_core.io.crew cimport crew_add_link, crew_drop_link, crew_least_linked
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.tls_openssl cimport TLS_NAMES_SIZE_MAX, tls_session_names
from proxy_engine_core.io.worker cimport CONN_BROKEN, Conn, Crew, Worker, conn_handle
from proxy_engine_core.link.establish cimport LinkSetup, link_establish
from proxy_engine_core.quota cimport Quota, quota_hold

cdef enum:
    LINK_PATH_SIZE = 12
    TCP_PATH_SIZE = 12
    PEER_TEXT_SIZE = 64

cdef const uint8_t *LINK_PATH = b"/_proxy/link"
cdef const uint8_t *TCP_PATH = b"/_proxy/tcp/"      # then the device and the tunnel


cdef bint asks_for_link(const Head *head) noexcept nogil:
    cdef const uint8_t *path = head.bytes + head.path.start
    if asks_for_data(head):
        return True
    if head.path.size >= TCP_PATH_SIZE and memcmp(path, TCP_PATH, TCP_PATH_SIZE) == 0:
        return True
    if head.path.size < LINK_PATH_SIZE or memcmp(path, LINK_PATH, LINK_PATH_SIZE) != 0:
        return False
    return head.path.size == LINK_PATH_SIZE or path[LINK_PATH_SIZE] == c'?'


cdef void ask_control_plane(
    Visitor *visitor, const uint8_t *bytes, uint32_t head_size
) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef const Head *head = &server_of(worker).head
    cdef char who[PEER_TEXT_SIZE + TLS_NAMES_SIZE_MAX]
    cdef uint32_t peer_size, names_size = 0
    if asks_for_data(head):
        data_arrive(visitor, head, bytes, head_size)
        return
    if not visitor.transaction.request_done:
        transaction_fail(visitor, 400, b"bad_upgrade", b"A link request has no body.")
        return
    peer_size = peer_text(visitor, who)
    if visitor.conn.tls != NULL:
        names_size = tls_session_names(
            &visitor.conn.tls.session, who + peer_size, TLS_NAMES_SIZE_MAX
        )
    visitor.state = VISITOR_AUTH
    visitor.transaction.keep_alive = False
    count(worker.counters, COUNT_AUTH_ASKED, 1)
    news_event(
        worker, EVENT_AUTH, conn_handle(&visitor.conn), peer_size, 0, 0, 0, who,
        peer_size + names_size, bytes, head_size,
    )
    conn_deadline(&visitor.conn, worker.options.auth_timeout_ms)


cdef uint32_t peer_text(const Visitor *visitor, char *target) noexcept nogil:
    # "ip:port", an IPv6 address in brackets; `target` has PEER_TEXT_SIZE bytes. Its length.
    cdef const char *form = "%s:%u"
    if memchr(visitor.address, c':', visitor.address_size) != NULL:
        form = "[%s]:%u"
    return <uint32_t>snprintf(
        target, PEER_TEXT_SIZE, form, visitor.address, <unsigned int>visitor.port
    )


cdef void visitor_join_tunnel(
    Visitor *visitor, const uint8_t *response, uint32_t size, const uint8_t *tunnel,
    uint32_t tunnel_size, Quota *joined_by
) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    if visitor.state != VISITOR_AUTH:
        return
    conn_write(&visitor.conn, response, size)
    count(visitor.conn.worker.counters, COUNT_TCP_CONNECTIONS, 1)
    transaction_set_tcp(transaction, tunnel, tunnel_size)
    if transaction.client_size:           # a trusted proxy spoke for it, for this once
        visitor.address_size = transaction.client_size
        memcpy(visitor.address, transaction.client, sizeof(visitor.address))
        visitor.port = 0
    transaction.joined_by = joined_by
    quota_hold(joined_by)
    transaction.bytes_in = 0              # of the tunnel, without the request's head
    visitor.state = VISITOR_TCP_OPENING
    conn_deadline(&visitor.conn, visitor.conn.worker.options.open_timeout_ms)
    conn_requeue(&visitor.conn)


cdef void visitor_auth_reply(
    Visitor *visitor, const uint8_t *response, uint32_t size, bint accept, const LinkSetup *setup,
    int worker
) noexcept nogil:
    cdef Conn *conn = &visitor.conn
    cdef Crew *crew = conn.worker.crew
    cdef uint32_t index
    if visitor.state != VISITOR_AUTH:
        return
    # The control plane logs and counts device logins itself: no request record.
    transaction_free(visitor)
    conn_write(conn, response, size)
    if not accept or conn.flags & CONN_BROKEN or conn_owed(conn):
        count(conn.worker.counters, COUNT_AUTH_REFUSED, 1)
        visitor_finish(visitor)
        return
    index = crew_least_linked(crew, conn.worker.index) if worker < 0 else <uint32_t>worker
    crew_add_link(crew, index)
    if index == conn.worker.index:
        visitor_establish(
            visitor, setup, buffer_head(&visitor.input), buffer_size(&visitor.input)
        )
        buffer_consume(&visitor.input, buffer_size(&visitor.input))
    elif not device_move(visitor, index, setup):
        crew_drop_link(crew, index)
        visitor_close(visitor)


cdef void visitor_establish(
    Visitor *visitor, const LinkSetup *setup, uint8_t *early, uint32_t early_size
) noexcept nogil:
    cdef char peer[PEER_TEXT_SIZE]
    peer_text(visitor, peer)
    link_establish(&visitor.conn, setup, peer, NULL, 0, early, early_size)
