# See mail.pxd.

import os

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from proxy_engine_core.agent.role cimport agent_discard
from proxy_engine_core.forward.policy cimport policy_new
from proxy_engine_core.forward.route cimport (
    ROUTE_KEY_SIZE_MAX, ROUTE_LINKS_MAX, TUNNEL_NAME_SIZE_MAX, route_new,
)
from proxy_engine_core.forward.route_stats cimport (
    RouteStatsBlock, route_stats_hold,
)
from proxy_engine_core.forward.server cimport server_discard
from proxy_engine_core.io.crew cimport crew_add_link, crew_post
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.socket cimport Address, address_parse, address_unix, socket_close
from proxy_engine_core.io.tls_openssl cimport TlsContext, tls_context_hold
from proxy_engine_core.io.worker cimport WORKERS_MAX, Crew, handle_worker
from proxy_engine_core.link.establish cimport LinkSetup
from proxy_engine_core.messages cimport (
    MESSAGE_AUTH_REPLY, MESSAGE_DIAL, MESSAGE_DRAIN, MESSAGE_DUMP,
    MESSAGE_REQUESTS_OPEN, MESSAGE_ROUTE_DELETE, MESSAGE_ROUTE_SET, MESSAGE_TARGETS,
    MESSAGE_TCP_CLOSE, MESSAGE_TCP_LISTEN, MESSAGE_TLS, MESSAGE_UDP_CLOSE, MESSAGE_UDP_LISTEN,
    TARGET_PROXY_HEADER, TARGET_TCP, TARGET_UDP, AuthReplyMessage, DialMessage, DrainMessage,
    DumpMessage, LinkMessage, OpenMessage, QuotaMessage, RouteDeleteMessage, RouteMessage,
    TargetEntry, TargetsMessage, TcpListenMessage, TlsMessage,
)
from proxy_engine_core.policy_pack cimport policy_pack
from proxy_engine_core.quota cimport Quota, quota_hold
from proxy_engine_core.tls cimport TlsClient

ctypedef void (*discard_fn)(MailboxNode *message) noexcept nogil

cdef enum:
    TIME_MAX_MS = 7 * 86_400_000          # what a caller may ask us to wait


cdef void *new_message(size_t size, uint32_t kind) except NULL:
    cdef MailboxNode *node = <MailboxNode *>calloc(1, size)
    if node == NULL:
        raise MemoryError
    node.kind = kind
    return node


cdef int new_for_all(Crew *crew, MailboxNode **nodes, size_t size, uint32_t kind) except -1:
    """A message for every worker, before the first gets one: all or none."""
    cdef uint32_t index
    for index in range(crew.worker_count):
        nodes[index] = <MailboxNode *>calloc(1, size)
        if nodes[index] == NULL:
            discard_all(nodes, index, NULL)
            raise MemoryError
        nodes[index].kind = kind
    return 0


cdef void discard_all(MailboxNode **nodes, uint32_t count, discard_fn discard) noexcept:
    cdef uint32_t index
    for index in range(count):
        if discard != NULL:               # what it owns by now
            discard(nodes[index])
        free(nodes[index])


cdef void post_all(Crew *crew, MailboxNode **nodes) noexcept:
    cdef uint32_t index
    for index in range(crew.worker_count):
        crew_post(crew, index, nodes[index])


# --- what is checked ------------------------------------------------------------------------

cdef int check_worker(const Crew *crew, int64_t worker) except -1:
    if not 0 <= worker < crew.worker_count:
        raise ValueError(f"worker takes 0 to {crew.worker_count - 1}, not {worker}")
    return 0


cdef int address_read(Address *address, str host, int port, int port_min) except -1:
    if not port_min <= port <= 65535:
        raise ValueError(f"port takes {port_min} to 65535, not {port}")
    if address_parse(address, host.encode(), <uint16_t>port) < 0:
        raise ValueError(f"{host!r} is not an IP address")
    return 0


cdef int unix_read(Address *address, str host, int port, int flags) except -1:
    cdef bytes path = os.fsencode(host[len("unix:"):])
    if port:
        raise ValueError(f"{host!r} has no port, not {port}")
    if flags & TARGET_UDP:
        raise ValueError(f"{host!r} can not be the target of a UDP tunnel")
    if b"\0" in path or address_unix(address, path, len(path)) < 0:
        raise ValueError(f"{host!r} is not the name of a socket: 1 to 107 bytes")
    return 0


cdef bytes tunnel_name(str tunnel):
    cdef bytes name = tunnel.encode()
    if not 0 < len(name) <= TUNNEL_NAME_SIZE_MAX:
        raise ValueError(f"tunnel name of {len(name)} bytes")
    return name


# --- to every worker ------------------------------------------------------------------------

cdef int post_drain(Crew *crew, uint64_t grace_ms) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(DrainMessage), MESSAGE_DRAIN)
    for index in range(crew.worker_count):
        (<DrainMessage *>nodes[index]).grace_ms = min(grace_ms, TIME_MAX_MS)
    post_all(crew, nodes)
    return 0


cdef int post_plain(Crew *crew, uint32_t kind) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    new_for_all(crew, nodes, sizeof(MailboxNode), kind)
    post_all(crew, nodes)
    return 0


cdef int post_requests_open(Crew *crew, uint64_t query, uint32_t limit) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(OpenMessage), MESSAGE_REQUESTS_OPEN)
    for index in range(crew.worker_count):
        (<OpenMessage *>nodes[index]).query = query
        (<OpenMessage *>nodes[index]).limit = limit
    post_all(crew, nodes)
    return 0


cdef int post_dump(
    Crew *crew, uint64_t query, uint64_t device, uint32_t links, uint32_t streams
) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef DumpMessage *message
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(DumpMessage), MESSAGE_DUMP)
    for index in range(crew.worker_count):
        message = <DumpMessage *>nodes[index]
        message.query = query
        message.device = device
        message.links_max = links
        message.streams_max = streams
    post_all(crew, nodes)
    return 0


cdef int post_route(
    Crew *crew, uint64_t version, str key, uint32_t route_id, list links, str tunnel,
    dict options, RouteStatsBlock *counts
) except -1:
    cdef bytes key_bytes = key.encode()
    cdef bytes packed = policy_pack(options, key.startswith(("tcp:", "udp:"))) if options else b""
    cdef bytes name = tunnel_name(tunnel)
    cdef const char *key_start = key_bytes
    cdef const char *name_start = name
    cdef const uint8_t *packed_start = packed
    cdef uint64_t handles[ROUTE_LINKS_MAX]
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef RouteMessage *change
    cdef uint32_t index, link_count = 0
    if not 0 < len(key_bytes) <= ROUTE_KEY_SIZE_MAX:
        raise ValueError(f"route key of {len(key_bytes)} bytes")
    for handle in links[:ROUTE_LINKS_MAX]:
        handles[link_count] = handle
        link_count += 1
    new_for_all(crew, nodes, sizeof(RouteMessage), MESSAGE_ROUTE_SET)
    for index in range(crew.worker_count):
        change = <RouteMessage *>nodes[index]
        change.version = version
        change.route = route_new(
            route_id, handles, link_count, <const uint8_t *>name_start, <uint32_t>len(name),
            <const uint8_t *>key_start, <uint32_t>len(key_bytes),
        )
        if change.route != NULL:
            change.route.counts = counts
            route_stats_hold(counts)
        if change.route != NULL and packed:
            change.route.policy = policy_new(packed_start, <uint32_t>len(packed))
        if change.route == NULL or packed and change.route.policy == NULL:
            discard_all(nodes, crew.worker_count, server_discard)
            raise MemoryError
    post_all(crew, nodes)
    return 0


cdef int post_route_delete(Crew *crew, uint64_t version, str key) except -1:
    cdef bytes key_bytes = key.encode()
    cdef size_t size = len(key_bytes)
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef RouteDeleteMessage *change
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(RouteDeleteMessage) + size, MESSAGE_ROUTE_DELETE)
    for index in range(crew.worker_count):
        change = <RouteDeleteMessage *>nodes[index]
        change.version = version
        change.size = <uint32_t>size
        memcpy(change + 1, <const char *>key_bytes, size)
    post_all(crew, nodes)
    return 0


cdef int post_tcp_listen(Crew *crew, uint16_t port, const int *fds) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef TcpListenMessage *listener
    cdef uint32_t index
    try:
        new_for_all(crew, nodes, sizeof(TcpListenMessage), MESSAGE_TCP_LISTEN)
    except BaseException:
        for index in range(crew.worker_count):
            socket_close(fds[index])
        raise
    for index in range(crew.worker_count):
        listener = <TcpListenMessage *>nodes[index]
        listener.fd = fds[index]
        listener.port = port
    post_all(crew, nodes)
    return 0


cdef int post_tcp_close(Crew *crew, uint16_t port) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(TcpListenMessage), MESSAGE_TCP_CLOSE)
    for index in range(crew.worker_count):
        (<TcpListenMessage *>nodes[index]).port = port
    post_all(crew, nodes)
    return 0


cdef int post_tls(Crew *crew, uint16_t port, TlsContext *tls) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef TlsMessage *change
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(TlsMessage), MESSAGE_TLS)
    for index in range(crew.worker_count):
        change = <TlsMessage *>nodes[index]
        change.context = tls_context_hold(tls)
        change.port = port
    post_all(crew, nodes)
    return 0


cdef int post_quota(Crew *crew, uint32_t kind, Quota *quota) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef uint32_t index
    new_for_all(crew, nodes, sizeof(QuotaMessage), kind)
    for index in range(crew.worker_count):
        (<QuotaMessage *>nodes[index]).quota = quota
        quota_hold(quota)
    post_all(crew, nodes)
    return 0


cdef int post_targets(Crew *crew, list rows) except -1:
    cdef MailboxNode *nodes[WORKERS_MAX]
    cdef TargetsMessage *table
    cdef TargetEntry *entries
    cdef uint32_t worker
    cdef size_t index
    new_for_all(crew, nodes, sizeof(TargetsMessage), MESSAGE_TARGETS)
    try:
        for worker in range(crew.worker_count):
            table = <TargetsMessage *>nodes[worker]
            table.targets = <TargetEntry *>calloc(len(rows) + 1, sizeof(TargetEntry))
            if table.targets == NULL:
                raise MemoryError
        entries = (<TargetsMessage *>nodes[0]).targets
        for index, row in enumerate(rows):
            # Flags and TLS may be left out.
            tunnel, host, port, flags, tls = tuple(row) + (0, None)[len(row) - 3:]
            read_target(&entries[index], tunnel, host, port, flags, tls)
        for worker in range(crew.worker_count):
            table = <TargetsMessage *>nodes[worker]
            table.target_count = <uint32_t>len(rows)
            if worker:
                memcpy(table.targets, entries, len(rows) * sizeof(TargetEntry))
            for index in range(len(rows)):
                tls_context_hold(table.targets[index].tls)
    except BaseException:
        discard_all(nodes, crew.worker_count, agent_discard)
        raise
    post_all(crew, nodes)
    return 0


cdef int read_target(
    TargetEntry *entry, str tunnel, str host, int port, int flags, TlsClient tls
) except -1:
    cdef bytes name = tunnel_name(tunnel)
    if flags & ~(TARGET_TCP | TARGET_PROXY_HEADER | TARGET_UDP):
        raise ValueError(f"unknown flags of a target: {flags}")
    if host.startswith("unix:"):
        unix_read(&entry.address, host, port, flags)
    else:
        address_read(&entry.address, host, port, 1)
    entry.flags = <uint8_t>flags
    entry.tls = tls.context if tls is not None else NULL
    entry.name_size = <uint8_t>len(name)
    memcpy(entry.name, <const char *>name, len(name))
    return 0


# --- to one ---------------------------------------------------------------------------------

cdef int post_auth_reply(
    Crew *crew, uint64_t ticket, bytes response, bint accept, const LinkSetup *setup, int worker,
    str tunnel
) except -1:
    cdef AuthReplyMessage *reply
    cdef bytes name = tunnel_name(tunnel) if tunnel else b""
    cdef size_t size = len(response)
    check_worker(crew, handle_worker(ticket))
    if worker != -1:
        check_worker(crew, worker)
    reply = <AuthReplyMessage *>new_message(sizeof(AuthReplyMessage) + size, MESSAGE_AUTH_REPLY)
    reply.ticket = ticket
    reply.setup = setup[0]
    quota_hold(setup.quota)
    reply.worker = worker
    reply.accept = accept
    reply.tunnel_size = <uint8_t>len(name)
    memcpy(reply.tunnel, <const char *>name, len(name))
    reply.size = <uint32_t>size
    memcpy(reply + 1, <const char *>response, size)
    crew_post(crew, handle_worker(ticket), &reply.node)
    return 0


cdef int post_to_link(Crew *crew, uint32_t kind, uint64_t link, bytes content) except -1:
    cdef size_t size = len(content)
    cdef LinkMessage *for_link
    check_worker(crew, handle_worker(link))
    for_link = <LinkMessage *>new_message(sizeof(LinkMessage) + size + 1, kind)
    for_link.link = link
    for_link.size = <uint32_t>size
    memcpy(for_link + 1, <const char *>content, size)
    crew_post(crew, handle_worker(link), &for_link.node)
    return 0


cdef int post_udp_listen(Crew *crew, uint32_t worker, uint16_t port, int fd) except -1:
    cdef TcpListenMessage *listener
    try:
        listener = <TcpListenMessage *>new_message(sizeof(TcpListenMessage), MESSAGE_UDP_LISTEN)
    except BaseException:
        socket_close(fd)
        raise
    listener.fd = fd
    listener.port = port
    crew_post(crew, worker, &listener.node)
    return 0


cdef int post_udp_close(Crew *crew, uint32_t worker, uint16_t port) except -1:
    cdef TcpListenMessage *listener = <TcpListenMessage *>new_message(
        sizeof(TcpListenMessage), MESSAGE_UDP_CLOSE
    )
    listener.port = port
    crew_post(crew, worker, &listener.node)
    return 0


cdef int post_dial(
    Crew *crew, uint32_t worker, uint64_t id, const Address *address, bytes request,
    uint8_t carrier, uint64_t timeout_ms, int fd, TlsContext *tls, bytes direct
) except -1:
    cdef size_t size = len(request)
    cdef size_t direct_size = len(direct)
    cdef DialMessage *dial = <DialMessage *>new_message(
        sizeof(DialMessage) + size + direct_size, MESSAGE_DIAL
    )
    dial.dial = id
    dial.address = address[0]
    dial.timeout_ms = min(timeout_ms, TIME_MAX_MS)
    dial.carrier = carrier
    dial.fd = fd
    dial.tls = tls_context_hold(tls)
    dial.size = <uint32_t>size
    dial.direct_size = <uint32_t>direct_size
    memcpy(dial + 1, <const char *>request, size)
    memcpy(<uint8_t *>(dial + 1) + size, <const char *>direct, direct_size)
    crew_add_link(crew, worker)
    crew_post(crew, worker, &dial.node)
    return 0
