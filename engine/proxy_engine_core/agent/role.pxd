# The agent role of a worker: links it dials, targets it connects streams to.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.udp cimport UdpInput, UdpOutput
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport LinkHost
from proxy_engine_core.messages cimport TargetEntry


cdef struct AgentRole:
    LinkHost host                         # must be first
    TargetEntry *targets                  # (tunnel, address); a tunnel may have several
    uint32_t target_count
    uint32_t table_version                # changes with `targets`
    uint32_t open_targets                 # connections to targets
    UdpInput *udp_input                   # NULL until a UDP tunnel is used
    UdpOutput *udp_output

cdef inline AgentRole *agent_of(Worker *worker) noexcept nogil:
    return <AgentRole *>worker.role

cdef inline int find_entry(
    const AgentRole *role, const uint8_t *name, uint32_t size, uint32_t start
) noexcept nogil:
    # The first address of this tunnel from `start` on; -1: none.
    cdef uint32_t index
    for index in range(start, role.target_count):
        if role.targets[index].name_size == size and memcmp(
            role.targets[index].name, name, size
        ) == 0:
            return <int>index
    return -1

cdef int agent_init(Worker *worker) noexcept nogil             # 0, -ENOMEM
# What a message owns that nobody will read any more; the message itself stays.
cdef void agent_discard(MailboxNode *message) noexcept nogil
cdef void agent_free(Worker *worker) noexcept nogil            # before worker_free
