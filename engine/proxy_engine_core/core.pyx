"""The engine's only Python face: see core.pyi for the contract.

Everything here holds the GIL and is called from the control plane; what it asks of a
worker it posts to the worker's mailbox, what it hears it reads from the workers' rings.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from proxy_engine_core.agent.role cimport agent_discard, agent_free, agent_init
from proxy_engine_core.atomic cimport atomic_load_relaxed
from proxy_engine_core.counters cimport COUNTER_COUNT, counter_name
from proxy_engine_core.forward.route cimport (
    ROUTE_KEY_SIZE_MAX, ROUTE_LINKS_MAX, TUNNEL_NAME_SIZE_MAX, route_new,
)
from proxy_engine_core.forward.server cimport server_discard, server_free, server_init
from proxy_engine_core.io.crew cimport crew_add_link, crew_init, crew_least_linked, crew_post
from proxy_engine_core.io.mailbox cimport MailboxNode, mailbox_take
from proxy_engine_core.io.socket cimport (
    Address, address_parse, socket_close, socket_listen_all, socket_local_port,
)
from proxy_engine_core.io.worker cimport (
    WORKERS_MAX as CREW_SIZE_MAX, Crew, Worker, handle_worker, worker_ask_to_stop,
    worker_close_conns, worker_cpu_us, worker_free, worker_join, worker_listen, worker_new,
    worker_start,
)
from proxy_engine_core.link.control cimport CONTROL_RECORD_SIZE_MAX as RECORD_SIZE_MAX
from proxy_engine_core.link.end cimport links_close_all
from proxy_engine_core.link.link cimport CARRIER_RAW, CARRIER_WEBSOCKET
from proxy_engine_core.messages cimport (
    MESSAGE_AUTH_REPLY, MESSAGE_DIAL, MESSAGE_DRAIN, MESSAGE_LINK_CLOSE, MESSAGE_LINK_DRAIN,
    MESSAGE_LINK_LOADS, MESSAGE_LINK_SEND, MESSAGE_ROUTE_DELETE, MESSAGE_ROUTE_SET,
    MESSAGE_TARGETS, MESSAGE_TCP_CLOSE, MESSAGE_TCP_LISTEN,
    TARGET_PROXY_HEADER as PROXY_HEADER_FLAG, TARGET_TCP as TCP_FLAG,
    AuthReplyMessage, DialMessage, DrainMessage, LinkMessage, RouteDeleteMessage, RouteMessage,
    TargetEntry, TargetsMessage, TcpListenMessage,
)
from proxy_engine_core.networks cimport networks_add
from proxy_engine_core.options cimport Options, options_fit_memory, options_read
from proxy_engine_core.records cimport event_tuple, log_record
from proxy_engine_core.spsc cimport SpscRing, spsc_peek, spsc_pop, spsc_used

from proxy_engine_core.http1.python import parse_request_head  # no-cython-lint
from proxy_engine_core.options import DEFAULTS  # no-cython-lint
from proxy_engine_core.records import (
    EVENT_AUTH, EVENT_CONTROL, EVENT_DIAL_FAILED, EVENT_DRAINED,  # no-cython-lint
    EVENT_LINK_DOWN, EVENT_LINK_LOAD, EVENT_LINK_SPENT, EVENT_LINK_UP,  # no-cython-lint
    EVENT_PRESSURE, EVENT_TARGET_FAILED,  # no-cython-lint
    LOG_ABORTED, LOG_LOCAL, LOG_RETRIED, LOG_REUSED, LOG_TCP, LOG_TUNNEL,  # no-cython-lint
    LogRecord,  # no-cython-lint
)

CONTROL_RECORD_SIZE_MAX = RECORD_SIZE_MAX
WORKERS_MAX = CREW_SIZE_MAX
TARGET_TCP = TCP_FLAG
TARGET_PROXY_HEADER = PROXY_HEADER_FLAG

cdef dict CARRIERS = {"raw": CARRIER_RAW, "websocket": CARRIER_WEBSOCKET}

cdef enum:
    TIME_MAX_MS = 7 * 86_400_000          # what a caller may ask us to wait
    RING_BATCH = 64                       # records of one worker before the next one's turn
    LOG_RECORD_SIZE_MAX = 4096            # of one record in a log ring; more than there can be


cdef uint8_t carrier_kind(carrier) except? 255:
    if carrier not in CARRIERS:
        raise ValueError(f"carrier is 'raw' or 'websocket', not {carrier!r}")
    return CARRIERS[carrier]


cdef void *message(size_t size, uint32_t kind) except NULL:
    cdef MailboxNode *node = <MailboxNode *>calloc(1, size)
    if node == NULL:
        raise MemoryError
    node.kind = kind
    return node


cdef dict stats_of(const Worker *worker):
    cdef int index
    cdef dict stats = {}
    for index in range(<int>COUNTER_COUNT):
        stats[counter_name(index)] = atomic_load_relaxed(&worker.counters[index])
    stats["connections"] = atomic_load_relaxed(&worker.conn_count)
    stats["buffer_bytes"] = atomic_load_relaxed(&worker.pool.bytes_lent)
    stats["buffer_bytes_max"] = atomic_load_relaxed(&worker.pool.bytes_lent_max)
    stats["buffer_bytes_kept"] = atomic_load_relaxed(&worker.pool.bytes_kept)
    stats["cpu_us"] = worker_cpu_us(worker)
    return stats


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
    cdef Crew *crew
    cdef Options *options
    cdef int python_fd
    cdef bint is_server
    cdef bint is_started
    cdef bint is_stopped
    cdef uint64_t dial_count
    cdef uint64_t routes_version
    cdef uint32_t next_ring               # whose turn it is in poll() and poll_logs()

    def __cinit__(self, role, *, int workers=1, **options):
        cdef uint32_t index
        self.python_fd = -1
        if role not in ("server", "agent"):
            raise ValueError(f"role is 'server' or 'agent', not {role!r}")
        if not 1 <= workers <= CREW_SIZE_MAX:
            raise ValueError(f"workers takes 1 to {CREW_SIZE_MAX}, not {workers}")
        self.is_server = role == "server"
        self.options = <Options *>malloc(sizeof(Options))
        self.crew = <Crew *>malloc(sizeof(Crew))
        if self.options == NULL or self.crew == NULL:
            free(self.crew)
            self.crew = NULL
            raise MemoryError
        crew_init(self.crew, <uint32_t>workers)
        options_read(self.options, options)
        options_fit_memory(self.options, workers)
        self.python_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for index in range(self.crew.worker_count):
            self.add_worker(index)

    cdef int add_worker(self, uint32_t index) except -1:
        cdef Worker *worker = worker_new(self.crew, index, self.python_fd, self.options)
        if worker == NULL:
            raise OSError(errno, os.strerror(errno))
        self.crew.workers[index] = worker
        if (server_init(worker) if self.is_server else agent_init(worker)) < 0:
            raise MemoryError
        return 0

    def __dealloc__(self):
        cdef uint32_t index
        self.close()
        if self.crew != NULL:
            for index in range(self.crew.worker_count):
                if self.crew.workers[index] != NULL:
                    worker_free(self.crew.workers[index])
        if self.python_fd >= 0:
            socket_close(self.python_fd)
        free(self.crew)
        free(self.options)

    cdef void close(self) noexcept:
        cdef uint32_t index
        if self.crew == NULL:
            return
        with nogil:
            for index in range(self.crew.worker_count):
                if self.crew.workers[index] != NULL:
                    worker_ask_to_stop(self.crew.workers[index])
            for index in range(self.crew.worker_count):
                if self.crew.workers[index] != NULL:
                    worker_join(self.crew.workers[index])
            for index in range(self.crew.worker_count):
                if self.crew.workers[index] != NULL:
                    self.close_worker(self.crew.workers[index])

    cdef void close_worker(self, Worker *worker) noexcept nogil:
        cdef MailboxNode *node
        cdef MailboxNode *following
        if worker.role != NULL:
            links_close_all(worker, b"stopping")
        worker_close_conns(worker)
        node = mailbox_take(&worker.mailbox)
        while node != NULL:
            following = node.next
            self.discard(node)
            node = following
        if self.is_server:
            server_free(worker)
        else:
            agent_free(worker)

    cdef void discard(self, MailboxNode *node) noexcept nogil:
        # A message no worker will read any more, with what it owns.
        if self.is_server:
            server_discard(node)
        else:
            agent_discard(node)
        free(node)

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

    cdef int check_worker(self, int64_t worker) except -1:
        if not 0 <= worker < self.crew.worker_count:
            raise ValueError(f"worker takes 0 to {self.crew.worker_count - 1}, not {worker}")
        return 0

    # Messages. Ownership goes to the workers. The caller has checked that there are any:
    # nothing lets another thread call stop() in between.

    cdef void post(self, uint32_t worker, void *node) noexcept:
        crew_post(self.crew, worker, <MailboxNode *>node)

    cdef int make_for_all(self, MailboxNode **nodes, size_t size, uint32_t kind) except -1:
        """A message for every worker, before the first gets one: all or none."""
        cdef uint32_t index
        for index in range(self.crew.worker_count):
            nodes[index] = <MailboxNode *>calloc(1, size)
            if nodes[index] == NULL:
                self.discard_all(nodes, index)
                raise MemoryError
            nodes[index].kind = kind
        return 0

    cdef void discard_all(self, MailboxNode **nodes, uint32_t count) noexcept:
        cdef uint32_t index
        for index in range(count):
            self.discard(nodes[index])

    cdef void post_all(self, MailboxNode **nodes) noexcept:
        cdef uint32_t index
        for index in range(self.crew.worker_count):
            self.post(index, nodes[index])

    @property
    def event_fd(self):
        return self.python_fd

    @property
    def workers(self):
        return self.crew.worker_count

    cdef int bind_all(self, str host, int port, int *fds) except -1:
        # A listening socket for each worker; the port bound.
        cdef Address address
        cdef int error, bound
        cdef uint32_t index
        if not 0 <= port <= 65535:
            raise ValueError(f"port takes 0 to 65535, not {port}")
        if address_parse(&address, host.encode(), <uint16_t>port) < 0:
            raise ValueError(f"{host!r} is not an IP address")
        error = socket_listen_all(
            &address, <int>self.options.backlog, fds, self.crew.worker_count
        )
        if error < 0:
            raise OSError(-error, os.strerror(-error), f"{host}:{port}")
        bound = socket_local_port(fds[0])
        if bound < 0:
            for index in range(self.crew.worker_count):
                socket_close(fds[index])
            raise OSError(-bound, os.strerror(-bound))
        return bound

    def listen(self, str host, int port):
        cdef int fds[CREW_SIZE_MAX]
        cdef int bound, error = 0
        cdef uint32_t index
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("listen() comes before start()")
        bound = self.bind_all(host, port, fds)
        for index in range(self.crew.worker_count):
            # It takes the fd over even when it fails.
            if error == 0:
                error = worker_listen(self.crew.workers[index], fds[index], 0)
            else:
                socket_close(fds[index])
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return bound

    def tcp_listen(self, str host, int port):
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        cdef TcpListenMessage *listener
        cdef int fds[CREW_SIZE_MAX]
        cdef int bound
        cdef uint32_t index
        self.check_role(True)
        self.make_for_all(nodes, sizeof(TcpListenMessage), MESSAGE_TCP_CLOSE)
        try:
            bound = self.bind_all(host, port, fds)
        except BaseException:
            self.discard_all(nodes, self.crew.worker_count)
            raise
        for index in range(self.crew.worker_count):
            listener = <TcpListenMessage *>nodes[index]
            listener.node.kind = MESSAGE_TCP_LISTEN       # from here on it owns an fd
            listener.fd = fds[index]
            listener.port = <uint16_t>bound
        self.post_all(nodes)
        return bound

    def tcp_close(self, int port):
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        cdef uint32_t index
        self.check_role(True)
        if not 0 < port <= 65535:
            raise ValueError(f"port takes 1 to 65535, not {port}")
        self.make_for_all(nodes, sizeof(TcpListenMessage), MESSAGE_TCP_CLOSE)
        for index in range(self.crew.worker_count):
            (<TcpListenMessage *>nodes[index]).port = <uint16_t>port
        self.post_all(nodes)

    def trust(self, str network):
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("trust() comes before start()")
        networks_add(&self.crew.trusted, network)

    def start(self):
        cdef uint32_t index
        cdef int error
        self.check_usable()
        if self.is_started:
            raise RuntimeError("the engine is started already")
        self.is_started = True
        for index in range(self.crew.worker_count):
            error = worker_start(self.crew.workers[index])
            if error < 0:
                self.stop()
                raise OSError(-error, os.strerror(-error))

    def drain(self, uint64_t grace_ms):
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        cdef uint32_t index
        self.check_usable()
        self.make_for_all(nodes, sizeof(DrainMessage), MESSAGE_DRAIN)
        for index in range(self.crew.worker_count):
            (<DrainMessage *>nodes[index]).grace_ms = min(grace_ms, TIME_MAX_MS)
        self.post_all(nodes)

    def stop(self):
        if self.is_stopped:
            return
        self.is_stopped = True
        self.close()

    cdef list collect(self, int limit, bint is_log):
        # The rings take turns, a batch each, and the next call goes on where this one ends.
        cdef SpscRing *ring
        cdef const uint8_t *place
        cdef uint32_t size, taken, empty = 0
        cdef list records = []
        while len(records) < limit and empty < self.crew.worker_count:
            if is_log:
                ring = &self.crew.workers[self.next_ring].log_ring
            else:
                ring = &self.crew.workers[self.next_ring].control_ring
            taken = 0
            while taken < RING_BATCH and len(records) < limit:
                place = spsc_peek(ring, &size)
                if place == NULL:
                    break
                try:
                    records.append(log_record(place) if is_log else event_tuple(place))
                finally:
                    spsc_pop(ring, size)
                taken += 1
            empty = 0 if taken else empty + 1
            self.next_ring = (self.next_ring + 1) % self.crew.worker_count
        if len(records) >= limit:
            os.eventfd_write(self.python_fd, 1)      # more is waiting
        return records

    def poll(self, int limit=4096):
        try:
            os.eventfd_read(self.python_fd)
        except BlockingIOError:
            pass
        return self.collect(limit, False)

    def poll_logs(self, int limit=4096):
        return self.collect(limit, True)

    def poll_log_batch(self, Py_ssize_t limit=1 << 20):
        cdef uint32_t index
        cdef Py_ssize_t room = 0, used = 0
        cdef bytes batch
        for index in range(self.crew.worker_count):
            room += <Py_ssize_t>spsc_used(&self.crew.workers[index].log_ring)
        room = min(room, max(limit, LOG_RECORD_SIZE_MAX))
        batch = PyBytes_FromStringAndSize(NULL, room)
        for index in range(self.crew.worker_count):
            used += take_batch(
                &self.crew.workers[(self.next_ring + index) % self.crew.worker_count].log_ring,
                <uint8_t *>PyBytes_AS_STRING(batch) + used, room - used,
            )
        # Another one is the first of the next call, so none is always behind a busy one.
        self.next_ring = (self.next_ring + 1) % self.crew.worker_count
        for index in range(self.crew.worker_count):
            if spsc_used(&self.crew.workers[index].log_ring):
                os.eventfd_write(self.python_fd, 1)      # more is waiting
                break
        return batch[:used]

    def auth_reply(
        self, uint64_t ticket, bytes response, *, bint accept, uint64_t device=0, carrier="raw",
        uint32_t window=262144, uint32_t streams_max=500, bint preamble=False, int worker=-1,
        str tunnel="",
    ):
        cdef AuthReplyMessage *reply
        cdef bytes name = tunnel.encode()
        cdef const char *source = response
        cdef size_t size = len(response)
        if not 262144 <= window <= 16 << 20:
            raise ValueError(f"window takes 262144 to {16 << 20} bytes, not {window}")
        if len(name) > TUNNEL_NAME_SIZE_MAX:
            raise ValueError(f"tunnel name of {len(name)} bytes")
        cdef uint8_t kind = carrier_kind(carrier)
        self.check_role(True)
        self.check_worker(handle_worker(ticket))
        if worker != -1:
            self.check_worker(worker)
        reply = <AuthReplyMessage *>message(sizeof(AuthReplyMessage) + size, MESSAGE_AUTH_REPLY)
        reply.ticket = ticket
        reply.worker = worker
        reply.accept = accept
        reply.tunnel_size = <uint8_t>len(name)
        memcpy(reply.tunnel, <const char *>name, len(name))
        reply.size = <uint32_t>size
        reply.setup.device = device
        reply.setup.window = window
        reply.setup.streams_max = streams_max
        reply.setup.carrier = kind
        reply.setup.has_preamble = preamble
        memcpy(reply + 1, source, size)
        self.post(handle_worker(ticket), reply)

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
        cdef const char *key_start = key_bytes
        cdef const char *name_start = name
        cdef uint64_t handles[ROUTE_LINKS_MAX]
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        cdef RouteMessage *change
        cdef uint32_t index, link_count = 0
        if not 0 < len(key_bytes) <= ROUTE_KEY_SIZE_MAX:
            raise ValueError(f"route key of {len(key_bytes)} bytes")
        if not 0 < len(name) <= TUNNEL_NAME_SIZE_MAX:
            raise ValueError(f"tunnel name of {len(name)} bytes")
        for handle in list(links)[:ROUTE_LINKS_MAX]:
            handles[link_count] = handle
            link_count += 1
        self.check_usable()
        self.make_for_all(nodes, sizeof(RouteMessage), MESSAGE_ROUTE_SET)
        for index in range(self.crew.worker_count):
            change = <RouteMessage *>nodes[index]
            change.version = self.routes_version + 1
            change.route = route_new(
                route_id, handles, link_count, <const uint8_t *>name_start, <uint32_t>len(name),
                <const uint8_t *>key_start, <uint32_t>len(key_bytes),
            )
            if change.route == NULL:
                self.discard_all(nodes, self.crew.worker_count)
                raise MemoryError
        self.routes_version += 1
        self.post_all(nodes)

    cdef route_delete(self, str key):
        cdef bytes key_bytes = key.encode()
        cdef size_t size = len(key_bytes)
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        cdef RouteDeleteMessage *change
        cdef uint32_t index
        self.check_usable()
        self.make_for_all(nodes, sizeof(RouteDeleteMessage) + size, MESSAGE_ROUTE_DELETE)
        self.routes_version += 1
        for index in range(self.crew.worker_count):
            change = <RouteDeleteMessage *>nodes[index]
            change.version = self.routes_version
            change.size = <uint32_t>size
            memcpy(change + 1, <const char *>key_bytes, size)
        self.post_all(nodes)

    cdef post_to_link(self, uint32_t kind, uint64_t link, bytes content):
        cdef size_t size = len(content)
        cdef LinkMessage *for_link
        self.check_usable()
        self.check_worker(handle_worker(link))
        for_link = <LinkMessage *>message(sizeof(LinkMessage) + size + 1, kind)
        for_link.link = link
        for_link.size = <uint32_t>size
        memcpy(for_link + 1, <const char *>content, size)
        self.post(handle_worker(link), for_link)

    def link_send(self, uint64_t link, bytes record):
        if not 0 < len(record) <= RECORD_SIZE_MAX:
            raise ValueError(f"control record of {len(record)} bytes")
        self.post_to_link(MESSAGE_LINK_SEND, link, record)

    def link_drain(self, uint64_t link, *, bint close=False):
        self.check_role(True)
        self.post_to_link(MESSAGE_LINK_DRAIN, link, b"close" if close else b"")

    def link_close(self, uint64_t link, str reason=""):
        self.post_to_link(MESSAGE_LINK_CLOSE, link, (reason or "closed").encode()[:64])

    def link_loads(self):
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        self.check_role(True)
        self.make_for_all(nodes, sizeof(MailboxNode), MESSAGE_LINK_LOADS)
        self.post_all(nodes)

    def link_worker(self, uint64_t link):
        self.check_worker(handle_worker(link))
        return handle_worker(link)

    def dial(
        self, str host, int port, bytes request, *, carrier, uint64_t timeout_ms=10000,
        int worker=-1, int fd=-1,
    ):
        cdef DialMessage *dial
        cdef Address address
        cdef size_t size = len(request)
        cdef uint32_t index
        cdef uint8_t kind = carrier_kind(carrier)
        self.check_role(False)
        if not 0 < port <= 65535:
            raise ValueError(f"port takes 1 to 65535, not {port}")
        if address_parse(&address, host.encode(), <uint16_t>port) < 0:
            raise ValueError(f"{host!r} is not an IP address")
        if worker == -1:
            index = crew_least_linked(self.crew, 0)
        else:
            self.check_worker(worker)
            index = <uint32_t>worker
        dial = <DialMessage *>message(sizeof(DialMessage) + size, MESSAGE_DIAL)
        self.dial_count += 1
        dial.dial = <uint64_t>index << 56 | self.dial_count
        dial.address = address
        dial.timeout_ms = min(timeout_ms, TIME_MAX_MS)
        dial.carrier = kind
        dial.fd = fd
        dial.size = <uint32_t>size
        memcpy(dial + 1, <const char *>request, size)
        cdef uint64_t id = dial.dial
        crew_add_link(self.crew, index)
        self.post(index, dial)
        return id

    def targets_apply(self, targets):
        cdef MailboxNode *nodes[CREW_SIZE_MAX]
        cdef TargetsMessage *table
        cdef TargetEntry *entries
        cdef list rows = list(targets)
        cdef uint32_t worker
        cdef size_t index
        cdef bytes name
        self.check_role(False)
        self.make_for_all(nodes, sizeof(TargetsMessage), MESSAGE_TARGETS)
        try:
            for worker in range(self.crew.worker_count):
                table = <TargetsMessage *>nodes[worker]
                table.target_count = <uint32_t>len(rows)
                table.targets = <TargetEntry *>calloc(len(rows) + 1, sizeof(TargetEntry))
                if table.targets == NULL:
                    raise MemoryError
            entries = (<TargetsMessage *>nodes[0]).targets
            for index, (tunnel, host, port, *rest) in enumerate(rows):
                name = tunnel.encode()
                flags = rest[0] if rest else 0
                if flags & ~(TARGET_TCP | TARGET_PROXY_HEADER):
                    raise ValueError(f"unknown flags of a target: {flags}")
                if not 0 < len(name) <= TUNNEL_NAME_SIZE_MAX:
                    raise ValueError(f"tunnel name of {len(name)} bytes")
                if not 0 < port <= 65535:
                    raise ValueError(f"port takes 1 to 65535, not {port}")
                if address_parse(&entries[index].address, host.encode(), <uint16_t>port) < 0:
                    raise ValueError(f"{host!r} is not an IP address")
                entries[index].flags = flags
                entries[index].name_size = <uint8_t>len(name)
                memcpy(entries[index].name, <const char *>name, len(name))
            for worker in range(1, self.crew.worker_count):
                memcpy(
                    (<TargetsMessage *>nodes[worker]).targets, entries,
                    len(rows) * sizeof(TargetEntry),
                )
        except BaseException:
            self.discard_all(nodes, self.crew.worker_count)
            raise
        self.post_all(nodes)

    def stats(self):
        cdef uint32_t index
        cdef dict total = stats_of(self.crew.workers[0])
        for index in range(1, self.crew.worker_count):
            for name, value in stats_of(self.crew.workers[index]).items():
                total[name] += value
        return total

    def worker_stats(self, int worker):
        self.check_worker(worker)
        return stats_of(self.crew.workers[worker])
