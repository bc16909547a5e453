"""The engine's only Python face: see core.pyi for the contract.

Everything here holds the GIL and is called from the control plane; what it asks of a
worker it posts to the worker's mailbox, what it hears it reads from the workers' rings.
"""

import os

cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from proxy_engine_core.agent.data cimport DIRECT_REQUEST_SIZE_MAX
from proxy_engine_core.agent.role cimport agent_discard, agent_free, agent_init
from proxy_engine_core.atomic cimport atomic_load_acquire, atomic_load_relaxed
from proxy_engine_core.counters cimport COUNTER_COUNT, counter_name
from proxy_engine_core.durations cimport DURATION_BUCKETS
from proxy_engine_core.forward.direct_pool cimport POOL_MAX
from proxy_engine_core.forward.route_stats cimport RouteStats, route_stats_add
from proxy_engine_core.forward.server cimport server_discard, server_free, server_init
from proxy_engine_core.forward.transaction cimport LinksSeen, server_of
from proxy_engine_core.io.crew cimport crew_init, crew_least_linked
from proxy_engine_core.io.listener cimport listener_open
from proxy_engine_core.io.mailbox cimport MailboxNode, mailbox_take
from proxy_engine_core.io.socket cimport (
    Address, socket_close, socket_listen_all, socket_local_port,
)
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport (
    WORKERS_MAX as CREW_SIZE_MAX, Crew, Worker, handle_worker, worker_ask_to_stop,
    worker_close_conns, worker_close_fds, worker_cpu_us, worker_free, worker_join, worker_new,
    worker_start,
)
from proxy_engine_core.link.control cimport CONTROL_RECORD_SIZE_MAX as RECORD_SIZE_MAX
from proxy_engine_core.link.end cimport links_close_all
from proxy_engine_core.link.establish cimport LinkSetup
from proxy_engine_core.link.link cimport CARRIER_RAW, CARRIER_WEBSOCKET, link_host
from proxy_engine_core.mail cimport (
    address_read, check_worker, post_auth_reply, post_dial, post_drain, post_plain,
    post_quota, post_requests_open, post_route, post_route_delete, post_targets, post_tcp_close,
    post_tcp_listen, post_tls, post_to_link,
)
from proxy_engine_core.messages cimport (
    MESSAGE_LINK_CLOSE, MESSAGE_LINK_DRAIN, MESSAGE_LINK_FLUSH, MESSAGE_LINK_LOADS,
    MESSAGE_LINK_SEND, MESSAGE_LINKS_LOOK,
    MESSAGE_QUOTA_CHANGED, MESSAGE_QUOTA_ENDED,
    TARGET_PROXY_HEADER as PROXY_HEADER_FLAG, TARGET_TCP as TCP_FLAG, TARGET_UDP as UDP_FLAG,
)
from proxy_engine_core.networks cimport networks_add
from proxy_engine_core.options cimport Options, options_fit_memory, options_read
from proxy_engine_core.policy_pack cimport policy_pack
from proxy_engine_core.quota cimport Quota, quota_connections, quota_end, quota_set
from proxy_engine_core.quota_table cimport QuotaTable
from proxy_engine_core.inspector cimport Inspector
from proxy_engine_core.route_stats_table cimport RouteStatsTable
from proxy_engine_core.udp_ports cimport UdpPorts
from proxy_engine_core.spsc cimport spsc_used
from proxy_engine_core.rings cimport rings_events, rings_have_logs, rings_log_batch, rings_logs

from proxy_engine_core.tls cimport TlsClient as ClientTls, TlsServer as ServerTls

from proxy_engine_core.http1.python import parse_request_head  # no-cython-lint
from proxy_engine_core.options import DEFAULTS  # no-cython-lint
from proxy_engine_core.quota_table import check_limits
from proxy_engine_core.records import (
    EVENT_AUTH, EVENT_CONTROL, EVENT_DIAL_FAILED, EVENT_DRAINED, EVENT_DUMP,  # no-cython-lint
    EVENT_LINK_DOWN, EVENT_LINK_LOAD, EVENT_LINK_SPENT, EVENT_LINK_UP,  # no-cython-lint
    EVENT_PRESSURE, EVENT_REQUESTS_OPEN, EVENT_SLOW_TURN, EVENT_TARGET_FAILED,  # no-cython-lint
    LOG_ABORTED, LOG_HTTP10, LOG_LOCAL, LOG_OPEN, LOG_RETRIED, LOG_REUSED,  # no-cython-lint
    LOG_TCP, LOG_TUNNEL, LOG_UDP,  # no-cython-lint
    LogRecord,  # no-cython-lint
)
from proxy_engine_core.route_stats_table import (
    ROUTE_STATS, ROUTE_STATS_BOUNDS_US,  # no-cython-lint
)

from proxy_engine_core.tls import TLS_LIBRARY, TlsCertificate, TlsClient  # no-cython-lint
from proxy_engine_core.tls import TlsServer, tls_certificate  # no-cython-lint

CONTROL_RECORD_SIZE_MAX = RECORD_SIZE_MAX
WORKERS_MAX = CREW_SIZE_MAX
TARGET_TCP = TCP_FLAG
TARGET_UDP = UDP_FLAG
TARGET_PROXY_HEADER = PROXY_HEADER_FLAG

LINKS_SEEN = (
    "streams", "streams_waiting", "queue_bytes", "round_trip_us_max", "window_extra_bytes",
    "windows_grown", "window_withheld_bytes",
)

cdef dict CARRIERS = {"raw": CARRIER_RAW, "websocket": CARRIER_WEBSOCKET}


cdef uint8_t carrier_kind(carrier) except? 255:
    if carrier not in CARRIERS:
        raise ValueError(f"carrier is 'raw' or 'websocket', not {carrier!r}")
    return CARRIERS[carrier]


cdef dict stats_of(Worker *worker):
    cdef int index
    cdef dict stats = {}
    for index in range(<int>COUNTER_COUNT):
        stats[counter_name(index)] = atomic_load_relaxed(&worker.counters[index])
    stats["connections"] = atomic_load_relaxed(&worker.conn_count)
    stats["buffer_bytes"] = atomic_load_relaxed(&worker.pool.bytes_lent)
    stats["buffer_bytes_max"] = atomic_load_relaxed(&worker.pool.bytes_lent_max)
    stats["buffer_bytes_kept"] = atomic_load_relaxed(&worker.pool.bytes_kept)
    stats["log_ring_bytes"] = spsc_used(&worker.log_ring)
    stats["log_ring_size"] = worker.log_ring.capacity
    stats["cpu_us"] = worker_cpu_us(worker)
    return stats


def check_policy(dict policy, *, bint is_tcp=False):
    policy_pack(policy, is_tcp)


@cython.no_gc_clear                       # workers write to what its tables own
cdef class Engine:
    # Workers and options are malloc'ed apart from this object, so that nothing here can be
    # freed under a running thread.
    cdef Crew *crew
    cdef Options *options
    cdef QuotaTable quotas
    cdef RouteStatsTable route_table
    cdef int python_fd
    cdef bint is_server
    cdef uint64_t looks                   # asked for
    cdef bint is_started
    cdef bint is_stopped
    cdef set tls_ports
    cdef uint64_t dial_count
    cdef uint64_t routes_version
    cdef UdpPorts udp
    cdef readonly Inspector inspector
    cdef uint32_t next_ring               # whose turn it is in poll() and poll_logs()

    def __cinit__(self, role, *, int workers=1, **options):
        cdef uint32_t index
        self.python_fd = -1
        self.tls_ports = set()
        if role not in ("server", "agent"):
            raise ValueError(f"role is 'server' or 'agent', not {role!r}")
        if not 1 <= workers <= CREW_SIZE_MAX:
            raise ValueError(f"workers takes 1 to {CREW_SIZE_MAX}, not {workers}")
        self.is_server = role == "server"
        self.quotas = QuotaTable()
        self.route_table = RouteStatsTable(<uint32_t>workers)
        self.options = <Options *>malloc(sizeof(Options))
        self.crew = <Crew *>malloc(sizeof(Crew))
        if self.options == NULL or self.crew == NULL:
            free(self.crew)
            self.crew = NULL
            raise MemoryError
        crew_init(self.crew, <uint32_t>workers)
        self.udp = UdpPorts()
        self.udp.crew = self.crew
        self.inspector = Inspector()
        self.inspector.crew = self.crew
        self.inspector.is_server = self.is_server
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
        if self.inspector is not None:
            self.inspector.close()
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
            for index in range(self.crew.worker_count):
                if self.crew.workers[index] != NULL:
                    worker_close_fds(self.crew.workers[index])
        if self.udp is not None:
            self.udp.close()

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
        address_read(&address, host, port, 0)
        error = socket_listen_all(
            &address, <int>self.options.backlog, self.options.tcp_keepalive_ms, fds,
            self.crew.worker_count,
        )
        if error < 0:
            raise OSError(-error, os.strerror(-error), f"{host}:{port}")
        bound = socket_local_port(fds[0])
        if bound < 0:
            for index in range(self.crew.worker_count):
                socket_close(fds[index])
            raise OSError(-bound, os.strerror(-bound))
        return bound

    def listen(self, str host, int port, *, ServerTls tls=None):
        cdef int fds[CREW_SIZE_MAX]
        cdef int bound, error = 0
        cdef uint32_t index
        cdef TlsContext *context = tls.context if tls is not None else NULL
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("listen() comes before start()")
        bound = self.bind_all(host, port, fds)
        if tls is not None:
            self.tls_ports.add(bound)
        for index in range(self.crew.worker_count):
            # It takes the fd over even when it fails.
            if error == 0:
                error = listener_open(
                    self.crew.workers[index], fds[index], 0,
                    <uint16_t>bound if tls is not None else 0, context,
                )
            else:
                socket_close(fds[index])
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return bound

    def tls_apply(self, int port, ServerTls tls not None):
        self.check_role(True)
        if port not in self.tls_ports:
            raise ValueError(f"no listener on port {port} speaks TLS")
        post_tls(self.crew, <uint16_t>port, tls.context)

    def tcp_listen(self, str host, int port):
        cdef int fds[CREW_SIZE_MAX]
        cdef int bound
        self.check_role(True)
        bound = self.bind_all(host, port, fds)
        post_tcp_listen(self.crew, <uint16_t>bound, fds)
        return bound

    def tcp_close(self, int port):
        self.check_role(True)
        if not 0 < port <= 65535:
            raise ValueError(f"port takes 1 to 65535, not {port}")
        post_tcp_close(self.crew, <uint16_t>port)

    def udp_listen(self, str host, int port):
        self.check_role(True)
        return self.udp.open(host, port)

    def udp_close(self, int port):
        self.check_role(True)
        if not 0 < port <= 65535:
            raise ValueError(f"port takes 1 to 65535, not {port}")
        self.udp.close_port(port)

    def trust(self, str network):
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("trust() comes before start()")
        networks_add(&self.crew.trusted, network)

    def redirect(self, int port):
        self.check_role(True)
        if self.is_started:
            raise RuntimeError("redirect() comes before start()")
        if not 0 <= port <= 65535:
            raise ValueError(f"port takes 0 to 65535, not {port}")
        self.crew.https_port = <uint16_t>port

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
        self.check_usable()
        post_drain(self.crew, grace_ms)

    def stop(self):
        cdef uint32_t index
        if self.is_stopped:
            return
        self.is_stopped = True
        self.inspector.close()
        self.close()
        # Now, and not when the last reference goes: that may be one of a cycle.
        for index in range(self.crew.worker_count):
            self.crew.workers[index].python_fd = -1
        socket_close(self.python_fd)
        self.python_fd = -1

    cdef int wake_again(self) except -1:
        if self.python_fd >= 0:
            os.eventfd_write(self.python_fd, 1)      # more is waiting
        return 0

    def poll(self, int limit=4096):
        cdef list events
        try:
            if self.python_fd >= 0:
                os.eventfd_read(self.python_fd)
        except BlockingIOError:
            pass
        events = rings_events(self.crew, &self.next_ring, limit)
        if len(events) >= limit:
            self.wake_again()
        return events

    def poll_logs(self, int limit=4096):
        cdef list records = rings_logs(self.crew, &self.next_ring, limit)
        if len(records) >= limit:
            self.wake_again()
        return records

    def poll_log_batch(self, Py_ssize_t limit=1 << 20):
        cdef bytes batch = rings_log_batch(self.crew, &self.next_ring, limit)
        if rings_have_logs(self.crew):
            self.wake_again()
        return batch

    def auth_reply(
        self, uint64_t ticket, bytes response, *, bint accept, uint64_t device=0, carrier="raw",
        uint32_t window=262144, uint32_t streams_max=500, bint preamble=False, int worker=-1,
        str tunnel="", uint32_t direct=0, uint64_t quota=0, tuple limits=(0, 0, 0),
    ):
        cdef LinkSetup setup
        if not 262144 <= window <= 16 << 20:
            raise ValueError(f"window takes 262144 to {16 << 20} bytes, not {window}")
        memset(&setup, 0, sizeof(LinkSetup))
        setup.device = device
        setup.window = window
        setup.streams_max = streams_max
        setup.carrier = carrier_kind(carrier)
        setup.has_preamble = preamble
        setup.direct_max = min(direct, <uint32_t>POOL_MAX) if preamble else 0
        self.check_role(True)
        setup.quota = self.quotas.get(quota, limits)
        post_auth_reply(self.crew, ticket, response, accept, &setup, worker, tunnel)

    def limits_apply(self, uint64_t quota, tuple limits):
        cdef Quota *found
        self.check_role(True)
        check_limits(limits)
        found = self.quotas.find(quota)
        if found != NULL and quota_set(found, limits[0], limits[1], limits[2]):
            post_quota(self.crew, MESSAGE_QUOTA_CHANGED, found)

    def joined_close(self, uint64_t quota):
        cdef Quota *found
        self.check_role(True)
        found = self.quotas.find(quota)
        if found != NULL:
            quota_end(found)
            post_quota(self.crew, MESSAGE_QUOTA_ENDED, found)

    def connections(self, uint64_t quota):
        cdef Quota *found
        self.check_role(True)
        found = self.quotas.find(quota)
        return 0 if found == NULL else quota_connections(found)

    def routes_apply(self, ops):
        self.check_role(True)
        for op in ops:
            if op[0] == "set":
                _, key, route_id, links, tunnel, *policy = op
                post_route(
                    self.crew, self.routes_version + 1, key, route_id, list(links), tunnel,
                    policy[0] if policy else None, self.route_table.get(route_id),
                )
                self.udp.routed(key, list(links))
            elif op[0] == "delete":
                post_route_delete(self.crew, self.routes_version + 1, op[1])
                self.udp.routed(op[1], [])
            else:
                raise ValueError(f"unknown route operation {op[0]!r}")
            self.routes_version += 1

    def link_send(self, uint64_t link, bytes record):
        if not 0 < len(record) <= RECORD_SIZE_MAX:
            raise ValueError(f"control record of {len(record)} bytes")
        self.check_usable()
        post_to_link(self.crew, MESSAGE_LINK_SEND, link, record)

    def link_drain(self, uint64_t link, *, bint close=False):
        self.check_role(True)
        post_to_link(self.crew, MESSAGE_LINK_DRAIN, link, b"close" if close else b"")

    def link_flush(self, uint64_t link, uint32_t route):
        self.check_role(True)
        post_to_link(self.crew, MESSAGE_LINK_FLUSH, link, (<const char *>&route)[:sizeof(route)])

    def link_close(self, uint64_t link, str reason=""):
        self.check_usable()
        post_to_link(self.crew, MESSAGE_LINK_CLOSE, link, (reason or "closed").encode()[:64])

    def link_loads(self):
        self.check_role(True)
        post_plain(self.crew, MESSAGE_LINK_LOADS)

    def links_look(self):
        self.check_role(True)
        post_plain(self.crew, MESSAGE_LINKS_LOOK)
        self.looks += 1
        return self.looks

    def links_seen(self):
        cdef const LinksSeen *seen
        cdef Worker *worker
        cdef uint32_t index
        cdef int bucket
        cdef dict found = dict.fromkeys(LINKS_SEEN, 0)
        cdef list trips = [0] * (DURATION_BUCKETS + 1)
        looks = self.looks
        for index in range(self.crew.worker_count):
            worker = self.crew.workers[index]
            if not self.is_server or worker.role == NULL:
                continue
            seen = &server_of(worker).links_seen
            looks = min(looks, atomic_load_acquire(&seen.looks))
            found["streams"] += atomic_load_relaxed(&seen.streams)
            found["streams_waiting"] += atomic_load_relaxed(&seen.streams_waiting)
            found["queue_bytes"] += atomic_load_relaxed(&seen.queue_bytes)
            found["round_trip_us_max"] = max(
                found["round_trip_us_max"], atomic_load_relaxed(&seen.round_trip_us_max)
            )
            found["window_extra_bytes"] += atomic_load_relaxed(&seen.window_extra_bytes)
            found["windows_grown"] += atomic_load_relaxed(&seen.windows_grown)
            found["window_withheld_bytes"] += atomic_load_relaxed(&seen.window_withheld_bytes)
            trips[0] += atomic_load_relaxed(&link_host(worker).round_trips.us)
            for bucket in range(DURATION_BUCKETS):
                trips[bucket + 1] += atomic_load_relaxed(
                    &link_host(worker).round_trips.counts[bucket]
                )
        return looks, found, tuple(trips)

    def requests_open(self, uint64_t query, uint32_t limit=1000):
        self.check_role(True)
        post_requests_open(self.crew, query, limit)

    def link_worker(self, uint64_t link):
        check_worker(self.crew, handle_worker(link))
        return handle_worker(link)

    def dial(
        self, str host, int port, bytes request, *, carrier, uint64_t timeout_ms=10000,
        int worker=-1, int fd=-1, bytes direct=b"", ClientTls tls=None,
    ):
        cdef Address address
        cdef uint8_t kind = carrier_kind(carrier)
        cdef uint64_t id
        self.check_role(False)
        address_read(&address, host, port, 1)
        if worker == -1:
            worker = <int>crew_least_linked(self.crew, 0)
        else:
            check_worker(self.crew, worker)
        self.dial_count += 1
        id = <uint64_t>worker << 56 | self.dial_count
        if len(direct) > DIRECT_REQUEST_SIZE_MAX:
            raise ValueError(f"direct takes at most {DIRECT_REQUEST_SIZE_MAX} bytes")
        post_dial(
            self.crew, <uint32_t>worker, id, &address, request, kind, timeout_ms, fd,
            tls.context if tls is not None else NULL, direct,
        )
        return id

    def targets_apply(self, targets):
        self.check_role(False)
        post_targets(self.crew, list(targets))

    def stats(self):
        cdef uint32_t index
        cdef dict total = stats_of(self.crew.workers[0])
        for index in range(1, self.crew.worker_count):
            for name, value in stats_of(self.crew.workers[index]).items():
                total[name] += value
        return total

    def route_stats(self):
        cdef RouteStats unrouted
        cdef uint32_t index
        memset(&unrouted, 0, sizeof(RouteStats))
        if self.is_server:
            for index in range(self.crew.worker_count):
                if self.crew.workers[index].role != NULL:
                    route_stats_add(&unrouted, &server_of(self.crew.workers[index]).unrouted)
        return self.route_table.pack(&unrouted)

    def worker_stats(self, int worker):
        check_worker(self.crew, worker)
        return stats_of(self.crew.workers[worker])
