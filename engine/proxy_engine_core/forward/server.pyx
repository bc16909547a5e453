# See server.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from proxy_engine_core.forward.admission cimport admission_free, admission_init
from proxy_engine_core.forward.direct cimport data_ended, direct_close, direct_init_worker
from proxy_engine_core.forward.direct_pool cimport (
    direct_begin, direct_drain, direct_housekeep,
)
from proxy_engine_core.forward.dump cimport dump_walk
from proxy_engine_core.forward.link_gauges cimport look_at_links
from proxy_engine_core.forward.link_load cimport tell_link_loads
from proxy_engine_core.forward.link_request cimport visitor_auth_reply, visitor_join_tunnel
from proxy_engine_core.forward.move cimport (
    MoveMessage, move_discard, move_receive, moves_resume,
)
from proxy_engine_core.forward.pace cimport pace_init_worker
from proxy_engine_core.forward.pool cimport pool_flush, pool_housekeep, pools_close, pools_drain
from proxy_engine_core.forward.ports cimport port_close, port_open, ports_forget, ports_retry
from proxy_engine_core.forward.recheck cimport recheck_mark, recheck_tunnels
from proxy_engine_core.forward.response cimport response_init_worker
from proxy_engine_core.forward.route cimport (
    route_free, route_key, route_table_delete, route_table_find, route_table_free,
    route_table_init, route_table_set,
)
from proxy_engine_core.forward.transaction cimport (
    ServerRole, Visitor, server_free_transactions, server_of,
)
from proxy_engine_core.forward.udp cimport (
    udp_close_all, udp_flush, udp_free, udp_init_worker,
)
from proxy_engine_core.forward.visitor cimport (
    visitor_init_worker, visitors_drain, visitors_owed,
)
from proxy_engine_core.forward.walk cimport walk_open, walk_quota
from proxy_engine_core.io.crew cimport crew_settle
from proxy_engine_core.io.listener cimport (
    listener_close_all, listener_init_worker, listener_set_tls,
)
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.relay cimport relay_free_worker
from proxy_engine_core.io.socket cimport socket_close
from proxy_engine_core.io.tls_openssl cimport tls_context_drop
from proxy_engine_core.io.worker cimport (
    CONN_LINK, CONN_VISITOR, Conn, Worker, worker_conn, worker_random,
)
from proxy_engine_core.link.control cimport link_send_control
from proxy_engine_core.link.end cimport link_close
from proxy_engine_core.link.establish cimport link_init_worker
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.messages cimport (
    MESSAGE_AUTH_REPLY, MESSAGE_DRAIN, MESSAGE_DUMP, MESSAGE_LINK_CLOSE, MESSAGE_LINK_DRAIN,
    MESSAGE_LINK_FLUSH, MESSAGE_LINK_LOADS, MESSAGE_LINK_SEND, MESSAGE_LINKS_LOOK, MESSAGE_MOVE,
    MESSAGE_QUOTA_CHANGED, MESSAGE_QUOTA_ENDED, MESSAGE_REQUESTS_OPEN, MESSAGE_ROUTE_DELETE,
    MESSAGE_ROUTE_SET, MESSAGE_TCP_CLOSE, MESSAGE_TCP_LISTEN, MESSAGE_TLS, MESSAGE_UDP_CLOSE,
    MESSAGE_UDP_LISTEN, AuthReplyMessage, DrainMessage, DumpMessage, LinkMessage, OpenMessage,
    QuotaMessage, RouteDeleteMessage, RouteMessage, TcpListenMessage, TlsMessage,
)
from proxy_engine_core.quota cimport quota_drop


cdef int server_init(Worker *worker) noexcept nogil:
    cdef ServerRole *role = <ServerRole *>calloc(1, sizeof(ServerRole))
    if role == NULL:
        return -ENOMEM
    role.worker = worker
    role.request_id_prefix = worker_random(worker)
    role.request_id_next = worker_random(worker)
    if admission_init(role) < 0:
        free(role)
        return -ENOMEM
    route_table_init(&role.routes)
    worker.role = role
    worker.on_message = server_message
    worker.on_turn = server_turn
    link_init_worker(worker)
    visitor_init_worker(worker)
    response_init_worker(worker)
    direct_init_worker(worker)
    pace_init_worker(worker)
    listener_init_worker(worker)
    udp_init_worker(worker)
    role.host.opened = NULL               # a device opens the control stream only
    role.host.housekeep = link_housekeep
    role.host.closed = link_closed
    role.host.tickets = NULL              # a device hands out none
    role.host.ended = data_ended
    return 0


cdef void server_free(Worker *worker) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    cdef MailboxNode *early
    if role == NULL:
        return
    while role.early_moves != NULL:
        early = role.early_moves
        role.early_moves = early.next
        server_discard(early)
        free(early)
    ports_forget(role)
    relay_free_worker(worker)
    route_table_free(&role.routes)
    admission_free(role)
    server_free_transactions(role)
    udp_free(role)
    free(role)
    worker.role = NULL


cdef void link_housekeep(Link *link) noexcept nogil:
    pool_housekeep(link)
    direct_housekeep(link)


cdef void link_closed(Link *link) noexcept nogil:
    direct_close(link)
    pools_close(link)


cdef void server_discard(MailboxNode *message) noexcept nogil:
    if message.kind == MESSAGE_ROUTE_SET:
        route_free((<RouteMessage *>message).route)
    elif message.kind == MESSAGE_MOVE:
        move_discard(<MoveMessage *>message)
        quota_drop((<MoveMessage *>message).setup.quota)
    elif message.kind in (MESSAGE_TCP_LISTEN, MESSAGE_UDP_LISTEN):
        socket_close((<TcpListenMessage *>message).fd)
    elif message.kind == MESSAGE_TLS:
        tls_context_drop((<TlsMessage *>message).context)
    elif message.kind == MESSAGE_AUTH_REPLY:
        quota_drop((<AuthReplyMessage *>message).setup.quota)
    elif message.kind in (MESSAGE_QUOTA_CHANGED, MESSAGE_QUOTA_ENDED):
        quota_drop((<QuotaMessage *>message).quota)


cdef bint server_message(Worker *worker, MailboxNode *message) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    cdef AuthReplyMessage *reply
    cdef RouteMessage *route
    cdef RouteDeleteMessage *deleted
    cdef LinkMessage *for_link
    cdef Conn *conn
    if message.kind == MESSAGE_AUTH_REPLY:
        reply = <AuthReplyMessage *>message
        conn = worker_conn(worker, reply.ticket)
        if conn != NULL and conn.kind == CONN_VISITOR:
            if reply.accept and reply.tunnel_size:
                visitor_join_tunnel(
                    <Visitor *>conn, <const uint8_t *>(reply + 1), reply.size, reply.tunnel,
                    reply.tunnel_size, reply.setup.quota,
                )
            else:
                visitor_auth_reply(
                    <Visitor *>conn, <const uint8_t *>(reply + 1), reply.size, reply.accept,
                    &reply.setup, reply.worker,
                )
        quota_drop(reply.setup.quota)
    elif message.kind == MESSAGE_ROUTE_SET:
        route = <RouteMessage *>message
        recheck_mark(
            role, route.route,
            route_table_find(
                &role.routes, route_key(route.route), route.route.key_size
            ),
        )
        route_table_set(&role.routes, route.route)
        role.routes_version = route.version
        if route.route.key_size > 4 and memcmp(route_key(route.route), b"tcp:", 4) == 0:
            direct_begin(worker, route.route)
        moves_resume(role)
    elif message.kind == MESSAGE_ROUTE_DELETE:
        deleted = <RouteDeleteMessage *>message
        route_table_delete(&role.routes, <const uint8_t *>(deleted + 1), deleted.size)
        role.routes_version = deleted.version
        moves_resume(role)
    elif message.kind == MESSAGE_MOVE:
        return move_receive(worker, <MoveMessage *>message)
    elif message.kind == MESSAGE_LINK_LOADS:
        tell_link_loads(worker)
    elif message.kind == MESSAGE_LINKS_LOOK:
        look_at_links(worker)
    elif message.kind == MESSAGE_TLS:
        listener_set_tls(
            worker, (<TlsMessage *>message).port, (<TlsMessage *>message).context
        )
        server_discard(message)
    elif message.kind in (MESSAGE_TCP_LISTEN, MESSAGE_UDP_LISTEN):
        return port_open(worker, <TcpListenMessage *>message)
    elif message.kind in (MESSAGE_TCP_CLOSE, MESSAGE_UDP_CLOSE):
        port_close(worker, <const TcpListenMessage *>message)
    elif message.kind in (MESSAGE_QUOTA_CHANGED, MESSAGE_QUOTA_ENDED):
        if walk_quota(worker, <QuotaMessage *>message):
            return True
        quota_drop((<QuotaMessage *>message).quota)
    elif message.kind == MESSAGE_REQUESTS_OPEN:
        return walk_open(worker, <OpenMessage *>message)
    elif message.kind == MESSAGE_DUMP:
        return dump_walk(worker, <DumpMessage *>message)
    elif message.kind == MESSAGE_DRAIN:
        worker.is_draining = True
        worker.drain_deadline_ms = worker.now_ms + (<DrainMessage *>message).grace_ms
        listener_close_all(worker)
        udp_close_all(worker)
        ports_forget(role)
        visitors_drain(worker)
    elif message.kind in (
        MESSAGE_LINK_SEND, MESSAGE_LINK_CLOSE, MESSAGE_LINK_DRAIN, MESSAGE_LINK_FLUSH
    ):
        for_link = <LinkMessage *>message
        conn = worker_conn(worker, for_link.link)
        if conn == NULL or conn.kind != CONN_LINK:
            return False
        if message.kind == MESSAGE_LINK_SEND:
            link_send_control(<Link *>conn, <const uint8_t *>(for_link + 1), for_link.size)
        elif message.kind == MESSAGE_LINK_DRAIN:
            direct_drain(<Link *>conn)
            pools_drain(<Link *>conn, for_link.size > 0)
        elif message.kind == MESSAGE_LINK_FLUSH:
            pool_flush(<Link *>conn, (<const uint32_t *>(for_link + 1))[0])
            udp_flush(<Link *>conn, (<const uint32_t *>(for_link + 1))[0])
        else:
            link_close(<Link *>conn, <const char *>(for_link + 1))
    return False


cdef void server_turn(Worker *worker) noexcept nogil:
    if worker.is_retrying:
        ports_retry(worker)
    if server_of(worker).marked_routes:
        recheck_tunnels(server_of(worker))
    if worker.is_draining:
        crew_settle(worker, server_of(worker).active == 0 and not visitors_owed(worker))
