# See connect.pxd.

from libc.errno cimport (
    EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EMFILE, ENETUNREACH, ENFILE, ENOMEM, EPROTO,
    ETIMEDOUT,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

from proxy_engine_core.agent.role cimport AgentRole, agent_of
from proxy_engine_core.buffer cimport buffer_free, buffer_init
from proxy_engine_core.counters cimport COUNT_TARGETS_CONNECTED, COUNT_TARGETS_FAILED, count
from proxy_engine_core.events cimport EVENT_TARGET_FAILED
from proxy_engine_core.io.conn cimport conn_attach, conn_deadline
from proxy_engine_core.io.handshake cimport handshake_start, tls_failure
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.profile cimport profile_apply
from proxy_engine_core.io.socket cimport socket_connect, socket_error, socket_open
from proxy_engine_core.io.tls_openssl cimport TlsContext, tls_context_drop, tls_context_hold
from proxy_engine_core.io.worker cimport CONN_BROKEN, CONN_WRITABLE, Conn, Worker
from proxy_engine_core.messages cimport TargetEntry
from proxy_engine_core.yamux.session cimport (
    YAMUX_RESET_REFUSED, YAMUX_RESET_TIMEOUT, YAMUX_RESET_UNREACHABLE,
)


cdef void target_conn_init(TargetConn *target, Worker *worker, uint8_t kind) noexcept nogil:
    target.conn.worker = worker
    target.conn.fd = -1
    target.conn.kind = kind
    buffer_init(&target.conn.out, &worker.pool, 0)
    agent_of(worker).open_targets += 1


cdef void target_conn_free(TargetConn *target) noexcept nogil:
    agent_of(target.conn.worker).open_targets -= 1
    tls_context_drop(target.tls)
    buffer_free(&target.conn.out)


cdef int target_conn_start(TargetConn *target) noexcept nogil:
    cdef Worker *worker = target.conn.worker
    cdef AgentRole *role = agent_of(worker)
    cdef const TargetEntry *entry = &role.targets[target.entry]
    cdef int fd
    target.table_version = role.table_version
    target.tls = tls_context_hold(entry.tls)
    fd = socket_open(&entry.address, worker.options.tcp_keepalive_ms)
    if fd >= 0:
        profile_apply(target.profile, fd)
    fd = socket_connect(fd, &entry.address)
    if fd < 0:
        return fd
    fd = conn_attach(worker, &target.conn, fd, target.conn.kind)
    if fd < 0:
        target.conn.fd = -1
        return fd
    conn_deadline(&target.conn, worker.options.target_timeout_ms)
    return 0


cdef int target_conn_step(TargetConn *target) noexcept nogil:
    cdef Conn *conn = &target.conn
    cdef TlsContext *tls = target.tls
    cdef int error
    if not conn.flags & (CONN_WRITABLE | CONN_BROKEN):
        return -EAGAIN
    error = socket_error(conn.fd)
    if tls_failure(conn) != NULL:
        return -EPROTO
    if error or conn.flags & CONN_BROKEN:
        return error if error else -ECONNREFUSED
    if tls != NULL:
        target.tls = NULL
        error = -EAGAIN if handshake_start(conn, tls) else -ENOMEM
        tls_context_drop(tls)
        return error                      # ready() again when it is over
    conn_deadline(conn, 0)
    count(conn.worker.counters, COUNT_TARGETS_CONNECTED, 1)
    return 0


cdef int target_conn_failed(TargetConn *target, int error) noexcept nogil:
    cdef Worker *worker = target.conn.worker
    cdef AgentRole *role = agent_of(worker)
    cdef int following
    count(worker.counters, COUNT_TARGETS_FAILED, 1)
    if target.table_version != role.table_version:
        return -1
    following = next_entry(role, target.entry)
    if following < 0:
        tell_target_failed(
            worker, &role.targets[target.entry], error, tls_failure(&target.conn)
        )
    return following


cdef void tell_target_failed(
    Worker *worker, const TargetEntry *entry, int error, const char *text
) noexcept nogil:
    news_event(
        worker, EVENT_TARGET_FAILED, 0, <uint64_t>error, 0, 0, 0, entry.name, entry.name_size,
        text, <uint32_t>strlen(text) if text != NULL else 0,
    )


cdef uint32_t reset_code(int error) noexcept nogil:
    if error == ETIMEDOUT:
        return YAMUX_RESET_TIMEOUT
    if error in (EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL, EMFILE, ENFILE, ENOMEM, EPROTO):
        return YAMUX_RESET_UNREACHABLE
    return YAMUX_RESET_REFUSED
