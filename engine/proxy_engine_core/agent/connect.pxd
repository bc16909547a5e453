# Connecting to a target: to one address of its tunnel after the other, inside TLS where the
# target speaks it. What is done once it stands, or never will, is its owner's part.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.agent.role cimport AgentRole, find_entry
from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport Conn, Worker
from proxy_engine_core.messages cimport TargetEntry


cdef struct TargetConn:
    Conn conn                             # must be first
    TlsContext *tls                       # a reference, until the handshake begins; NULL: none
    uint32_t entry                        # of the role's table: the address being tried
    uint32_t table_version                # ... of this version
    const Profile *profile

# One that is not connected, fd -1, of zeroed memory; entry and profile are still to be set.
cdef void target_conn_init(TargetConn *target, Worker *worker, uint8_t kind) noexcept nogil
cdef void target_conn_free(TargetConn *target) noexcept nogil       # what it owns
# Begin; 0, or -errno with fd -1.
cdef int target_conn_start(TargetConn *target) noexcept nogil
# In ready(), until it is 0: connected. -EAGAIN: not yet; other -errno: it never will be.
cdef int target_conn_step(TargetConn *target) noexcept nogil
# It was not to be had, `error` is why: the address to try next. -1: there is none, and the
# control plane hears of it.
cdef int target_conn_failed(TargetConn *target, int error) noexcept nogil
# What a stream is reset with whose target could not be connected.
cdef uint32_t reset_code(int error) noexcept nogil
# Tell the control plane why a tunnel has no target; counted by the caller.
cdef void tell_target_failed(
    Worker *worker, const TargetEntry *entry, int error, const char *text
) noexcept nogil

cdef inline int next_entry(const AgentRole *role, uint32_t entry) noexcept nogil:
    # The next address of the same tunnel; -1: none.
    cdef const TargetEntry *tried = &role.targets[entry]
    return find_entry(role, tried.name, tried.name_size, entry + 1)
