"""The engine's only Python face: see core.pyi for the contract.

Everything here holds the GIL and is called from the control plane; what it asks of a
worker it posts to the worker's mailbox, what it hears it reads from the worker's rings.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from proxy_engine_core.agent.role cimport agent_free, agent_init
from proxy_engine_core.atomic cimport atomic_load_relaxed
from proxy_engine_core.counters cimport COUNTER_COUNT, counter_name
from proxy_engine_core.forward.route cimport (
    ROUTE_KEY_SIZE_MAX, ROUTE_LINKS_MAX, TUNNEL_NAME_SIZE_MAX, Route,
)
from proxy_engine_core.forward.server cimport server_free, server_init
from proxy_engine_core.io.mailbox cimport MailboxNode, mailbox_post, mailbox_take
from proxy_engine_core.io.socket cimport (
    Address, address_parse, socket_close, socket_listen, socket_local_port,
)
from proxy_engine_core.io.worker cimport (
    Worker, worker_close_conns, worker_free, worker_listen, worker_new, worker_start,
    worker_stop,
)
from proxy_engine_core.link cimport (
    CARRIER_RAW, CARRIER_WEBSOCKET, CONTROL_RECORD_SIZE_MAX as RECORD_SIZE_MAX, links_close_all,
)
from proxy_engine_core.messages cimport (
    MESSAGE_AUTH_REPLY, MESSAGE_DIAL, MESSAGE_DRAIN, MESSAGE_LINK_CLOSE, MESSAGE_LINK_DRAIN,
    MESSAGE_LINK_SEND, MESSAGE_ROUTE_DELETE, MESSAGE_ROUTE_SET, MESSAGE_TARGETS, AuthReplyMessage,
    DialMessage, DrainMessage, LinkMessage, RouteDeleteMessage, RouteMessage, TargetEntry,
    TargetsMessage,
)
from proxy_engine_core.networks cimport networks_add
from proxy_engine_core.options cimport Options, options_default, options_set
from proxy_engine_core.records cimport event_tuple, log_record
from proxy_engine_core.spsc cimport SpscRing, spsc_peek, spsc_pop, spsc_used

from proxy_engine_core.http1.python import parse_request_head  # no-cython-lint
from proxy_engine_core.options import DEFAULTS  # no-cython-lint
from proxy_engine_core.records import (
    EVENT_AUTH, EVENT_CONTROL, EVENT_DIAL_FAILED, EVENT_DRAINED,  # no-cython-lint
    EVENT_LINK_DOWN, EVENT_LINK_UP, EVENT_TARGET_FAILED,  # no-cython-lint
    LOG_ABORTED, LOG_LOCAL, LOG_RETRIED, LOG_REUSED, LOG_TUNNEL, LogRecord,  # no-cython-lint
)

CONTROL_RECORD_SIZE_MAX = RECORD_SIZE_MAX

cdef dict CARRIERS = {"raw": CARRIER_RAW, "websocket": CARRIER_WEBSOCKET}

# One worker until connections can move between them: see docs/architecture.md.
WORKERS_MAX = 1

cdef enum:
    TIME_MAX_MS = 7 * 86_400_000          # what a caller may ask us to wait
    LOG_RECORD_SIZE_MAX = 4096            # of one record in a log ring; more than there can be


cdef uint8_t carrier_kind(carrier) except? 255:
    if carrier not in CARRIERS:
        raise ValueError(f"carrier is 'raw' or 'websocket', not {carrier!r}")
    return CARRIERS[carrier]


cdef void discard(MailboxNode *node) noexcept nogil:
    # Messages no worker will read any more, with what they own.
    cdef MailboxNode *following
    while node != NULL:
        following = node.next
        if node.kind == MESSAGE_ROUTE_SET:
            free((<RouteMessage *>node).route)
        elif node.kind == MESSAGE_TARGETS:
            free((<TargetsMessage *>node).targets)
        free(node)
        node = following


cdef void *message(size_t size, uint32_t kind) except NULL:
    cdef MailboxNode *node = <MailboxNode *>calloc(1, size)
    if node == NULL:
        raise MemoryError
    node.kind = kind
    return node


cdef Py_ssize_t take_batch(SpscRing *ring, uint8_t *target, Py_ssize_t room) noexcept:
    # Move whole records of a log ring there; the bytes taken.
    cdef const uint8_t *place
    cdef uint32_t size
    cdef Py_ssize_t used = 0
    while True:
        place = spsc_peek(ring, &size)
        if place == NULL or used + <Py_ssize_t>size > room:
            return used
        memcpy(target + used, place, size)
        used += size
        spsc_pop(ring, size)


cdef class Engine:
    # Workers and options are malloc'ed apart from this object, so that nothing here can be
    # freed under a running thread.
    cdef Worker *worker
    cdef Options *options
    cdef int python_fd
    cdef bint is_server
    cdef bint is_started
    cdef bint is_stopped
    cdef uint64_t dial_count

    def __cinit__(self, role, *, int workers=1, **options):
        cdef int error
        self.python_fd = -1
        if role not in ("server", "agent"):
            raise ValueError(f"role is 'server' or 'agent', not {role!r}")
        if not 1 <= workers <= WORKERS_MAX:
            raise ValueError(f"workers takes 1 to {WORKERS_MAX}, not {workers}")
        self.is_server = role == "server"
        self.options = <Options *>malloc(sizeof(Options))
        if self.options == NULL:
            raise MemoryError
        options_default(self.options)
        for name, value in options.items():
            options_set(self.options, name, value)
        self.python_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.worker = worker_new(0, self.python_fd, self.options)
        if self.worker == NULL:
            raise OSError(errno, os.strerror(errno))
        error = server_init(self.worker) if self.is_server else agent_init(self.worker)
        if error < 0:
            raise MemoryError

    def __dealloc__(self):
        self.close()
        if self.worker != NULL:
            worker_free(self.worker)
        if self.python_fd >= 0:
            socket_close(self.python_fd)
        free(self.options)

    cdef void close(self) noexcept:
        if self.worker == NULL:
            return
        with nogil:
            worker_stop(self.worker)
            if self.worker.role != NULL:
                links_close_all(self.worker, b"stopping")
            worker_close_conns(self.worker)
            discard(mailbox_take(&self.worker.mailbox))
            if self.is_server:
                server_free(self.worker)
            else:
                agent_free(self.worker)

    cdef int check_usable(self) except -1:
        if self.is_stopped:
            raise RuntimeError("the engine is stopped")
        return 0

    cdef int check_role(self, bint is_server) except -1:
        self.check_usable()
        if self.is_server != is_server:
            raise RuntimeError("a server does not do that" if self.is_server
                               else "an agent does not do that")
        return 0

    cdef void post(self, void *node) noexcept:
        # Ownership goes to the worker. The caller has checked that there is one: nothing
        # lets another thread call stop() in between.
        mailbox_post(&self.worker.mailbox, <MailboxNode *>node)

    cdef int check_worker(self, int worker) except -1:
        if not 0 <= worker < 1:
            raise ValueError(f"worker takes 0 to 0, not {worker}")
        return 0

    @property
    def event_fd(self):
        return self.python_fd

    @property
    def workers(self):
        return 1

    def listen(self, str host, int port):
        cdef Address address
        cdef int fd, bound, error
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("listen() comes before start()")
        if not 0 <= port <= 65535:
            raise ValueError(f"port takes 0 to 65535, not {port}")
        if address_parse(&address, host.encode(), <uint16_t>port) < 0:
            raise ValueError(f"{host!r} is not an IP address")
        fd = socket_listen(&address, <int>self.options.backlog, False)
        if fd < 0:
            raise OSError(-fd, os.strerror(-fd), f"{host}:{port}")
        bound = socket_local_port(fd)
        if bound < 0:
            socket_close(fd)
            raise OSError(-bound, os.strerror(-bound))
        error = worker_listen(self.worker, fd)
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return bound

    def trust(self, str network):
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("trust() comes before start()")
        networks_add(&self.options.trusted, network)

    def start(self):
        cdef int error
        self.check_usable()
        if self.is_started:
            raise RuntimeError("the engine is started already")
        error = worker_start(self.worker)
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        self.is_started = True

    def drain(self, uint64_t grace_ms):
        cdef DrainMessage *drain
        self.check_usable()
        drain = <DrainMessage *>message(sizeof(DrainMessage), MESSAGE_DRAIN)
        drain.grace_ms = min(grace_ms, TIME_MAX_MS)
        self.post(drain)

    def stop(self):
        if self.is_stopped:
            return
        self.is_stopped = True
        self.close()

    def poll(self, int limit=4096):
        cdef const uint8_t *place
        cdef uint32_t size
        cdef list events = []
        try:
            os.eventfd_read(self.python_fd)
        except BlockingIOError:
            pass
        while len(events) < limit:
            place = spsc_peek(&self.worker.control_ring, &size)
            if place == NULL:
                return events
            try:
                events.append(event_tuple(place))
            finally:
                spsc_pop(&self.worker.control_ring, size)
        os.eventfd_write(self.python_fd, 1)      # more is waiting
        return events

    def poll_logs(self, int limit=4096):
        cdef const uint8_t *place
        cdef uint32_t size
        cdef list records = []
        while len(records) < limit:
            place = spsc_peek(&self.worker.log_ring, &size)
            if place == NULL:
                return records
            try:
                records.append(log_record(place))
            finally:
                spsc_pop(&self.worker.log_ring, size)
        os.eventfd_write(self.python_fd, 1)
        return records

    def poll_log_batch(self, Py_ssize_t limit=1 << 20):
        cdef SpscRing *ring = &self.worker.log_ring
        cdef Py_ssize_t room = min(max(limit, LOG_RECORD_SIZE_MAX), <Py_ssize_t>spsc_used(ring))
        cdef bytes batch = PyBytes_FromStringAndSize(NULL, room)
        cdef Py_ssize_t used = take_batch(ring, <uint8_t *>PyBytes_AS_STRING(batch), room)
        if spsc_used(ring):
            os.eventfd_write(self.python_fd, 1)      # more is waiting
        return batch[:used]

    def auth_reply(
        self, uint64_t ticket, bytes response, *, bint accept, uint64_t device=0, carrier="raw",
        uint32_t window=262144, uint32_t streams_max=500, bint preamble=False, int worker=-1,
    ):
        cdef AuthReplyMessage *reply
        cdef const char *source = response
        cdef size_t size = len(response)
        if not 262144 <= window <= 16 << 20:
            raise ValueError(f"window takes 262144 to {16 << 20} bytes, not {window}")
        cdef uint8_t kind = carrier_kind(carrier)
        if worker != -1:
            self.check_worker(worker)
        self.check_role(True)
        reply = <AuthReplyMessage *>message(sizeof(AuthReplyMessage) + size, MESSAGE_AUTH_REPLY)
        reply.ticket = ticket
        reply.accept = accept
        reply.size = <uint32_t>size
        reply.setup.device = device
        reply.setup.window = window
        reply.setup.streams_max = streams_max
        reply.setup.carrier = kind
        reply.setup.has_preamble = preamble
        memcpy(reply + 1, source, size)
        self.post(reply)

    def routes_apply(self, ops):
        self.check_role(True)
        for op in ops:
            if op[0] == "set":
                _, key, route_id, links, tunnel = op
                self.route_set(key, route_id, links, tunnel)
            elif op[0] == "delete":
                self.route_delete(op[1])
            else:
                raise ValueError(f"unknown route operation {op[0]!r}")

    cdef route_set(self, str key, uint32_t route_id, links, str tunnel):
        cdef bytes key_bytes = key.encode()
        cdef bytes name = tunnel.encode()
        cdef RouteMessage *set_message
        cdef Route *route
        if not 0 < len(key_bytes) <= ROUTE_KEY_SIZE_MAX:
            raise ValueError(f"route key of {len(key_bytes)} bytes")
        if not 0 < len(name) <= TUNNEL_NAME_SIZE_MAX:
            raise ValueError(f"tunnel name of {len(name)} bytes")
        handles = [int(handle) for handle in links][:ROUTE_LINKS_MAX]
        self.check_usable()
        set_message = <RouteMessage *>message(sizeof(RouteMessage), MESSAGE_ROUTE_SET)
        route = <Route *>calloc(1, sizeof(Route))
        if route == NULL:
            free(set_message)
            raise MemoryError
        route.id = route_id
        try:
            for handle in handles:
                route.links[route.link_count] = handle
                route.link_count += 1
        except OverflowError:
            free(route)
            free(set_message)
            raise
        route.key_size = <uint16_t>len(key_bytes)
        memcpy(route.key, <const char *>key_bytes, route.key_size)
        route.name_size = <uint8_t>len(name)
        memcpy(route.name, <const char *>name, route.name_size)
        set_message.route = route
        self.post(set_message)

    cdef route_delete(self, str key):
        cdef bytes key_bytes = key.encode()
        cdef size_t size = len(key_bytes)
        cdef RouteDeleteMessage *deleted
        self.check_usable()
        deleted = <RouteDeleteMessage *>message(
            sizeof(RouteDeleteMessage) + size, MESSAGE_ROUTE_DELETE
        )
        deleted.size = <uint32_t>size
        memcpy(deleted + 1, <const char *>key_bytes, size)
        self.post(deleted)

    cdef post_to_link(self, uint32_t kind, uint64_t link, bytes content):
        cdef size_t size = len(content)
        cdef LinkMessage *for_link
        self.check_usable()
        for_link = <LinkMessage *>message(sizeof(LinkMessage) + size + 1, kind)
        for_link.link = link
        for_link.size = <uint32_t>size
        memcpy(for_link + 1, <const char *>content, size)
        self.post(for_link)

    def link_send(self, uint64_t link, bytes record):
        if not 0 < len(record) <= RECORD_SIZE_MAX:
            raise ValueError(f"control record of {len(record)} bytes")
        self.post_to_link(MESSAGE_LINK_SEND, link, record)

    def link_drain(self, uint64_t link):
        self.check_role(True)
        self.post_to_link(MESSAGE_LINK_DRAIN, link, b"")

    def link_close(self, uint64_t link, str reason=""):
        self.post_to_link(MESSAGE_LINK_CLOSE, link, (reason or "closed").encode()[:64])

    def link_worker(self, uint64_t link):
        self.check_worker(<int>(link >> 56))
        return <int>(link >> 56)

    def dial(
        self, str host, int port, bytes request, *, carrier, uint64_t timeout_ms=10000,
        int worker=-1,
    ):
        cdef DialMessage *dial
        cdef Address address
        cdef size_t size = len(request)
        cdef uint8_t kind = carrier_kind(carrier)
        if worker != -1:
            self.check_worker(worker)
        self.check_role(False)
        if not 0 < port <= 65535:
            raise ValueError(f"port takes 1 to 65535, not {port}")
        if address_parse(&address, host.encode(), <uint16_t>port) < 0:
            raise ValueError(f"{host!r} is not an IP address")
        dial = <DialMessage *>message(sizeof(DialMessage) + size, MESSAGE_DIAL)
        self.dial_count += 1
        dial.dial = self.dial_count
        dial.address = address
        dial.timeout_ms = min(timeout_ms, TIME_MAX_MS)
        dial.carrier = kind
        dial.size = <uint32_t>size
        memcpy(dial + 1, <const char *>request, size)
        self.post(dial)
        return self.dial_count

    def targets_apply(self, targets):
        cdef TargetsMessage *table
        cdef TargetEntry *entries
        cdef list rows = list(targets)
        cdef size_t index
        cdef bytes name
        entries = <TargetEntry *>calloc(len(rows) + 1, sizeof(TargetEntry))
        if entries == NULL:
            raise MemoryError
        try:
            for index, (tunnel, host, port) in enumerate(rows):
                name = tunnel.encode()
                if not 0 < len(name) <= TUNNEL_NAME_SIZE_MAX:
                    raise ValueError(f"tunnel name of {len(name)} bytes")
                if not 0 < port <= 65535:
                    raise ValueError(f"port takes 1 to 65535, not {port}")
                if address_parse(&entries[index].address, host.encode(), <uint16_t>port) < 0:
                    raise ValueError(f"{host!r} is not an IP address")
                entries[index].name_size = <uint8_t>len(name)
                memcpy(entries[index].name, <const char *>name, len(name))
            self.check_role(False)
            table = <TargetsMessage *>message(sizeof(TargetsMessage), MESSAGE_TARGETS)
        except BaseException:
            free(entries)
            raise
        table.targets = entries
        table.target_count = <uint32_t>len(rows)
        self.post(table)

    def stats(self):
        return self.worker_stats(0)

    def worker_stats(self, int worker):
        cdef int index
        self.check_worker(worker)
        cdef dict stats = {}
        for index in range(<int>COUNTER_COUNT):
            stats[counter_name(index)] = atomic_load_relaxed(&self.worker.counters[index])
        # Not counters, but plain words one thread writes: good enough to look at.
        stats["connections"] = self.worker.conn_count
        stats["buffer_bytes"] = self.worker.pool.bytes_lent
        stats["buffer_bytes_max"] = self.worker.pool.bytes_lent_max
        stats["buffer_bytes_kept"] = self.worker.pool.bytes_kept
        return stats
