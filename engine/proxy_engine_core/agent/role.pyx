# See role.pxd.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.agent.data cimport (
    data_close, data_dial, data_ended, data_init_worker,
)
from proxy_engine_core.agent.dial cimport dial_init_worker, dial_start
from proxy_engine_core.agent.target cimport target_init_worker, target_open
from proxy_engine_core.agent.udp_target cimport udp_target_free, udp_target_init_worker
from proxy_engine_core.io.crew cimport crew_settle
from proxy_engine_core.io.handshake cimport handshake_init_worker
from proxy_engine_core.io.parting cimport parting_init_worker
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.relay cimport relay_free_worker
from proxy_engine_core.io.socket cimport socket_close
from proxy_engine_core.io.tls_openssl cimport tls_context_drop
from proxy_engine_core.io.worker cimport CONN_LINK, Worker
from proxy_engine_core.link.control cimport link_send_control
from proxy_engine_core.link.end cimport link_close
from proxy_engine_core.link.establish cimport link_init_worker
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.messages cimport (
    MESSAGE_DIAL, MESSAGE_DRAIN, MESSAGE_LINK_CLOSE, MESSAGE_LINK_SEND, MESSAGE_TARGETS,
    DialMessage, DrainMessage, LinkMessage, TargetEntry, TargetsMessage,
)


cdef int agent_init(Worker *worker) noexcept nogil:
    cdef AgentRole *role = <AgentRole *>calloc(1, sizeof(AgentRole))
    if role == NULL:
        return -ENOMEM
    worker.role = role
    worker.on_message = agent_message
    worker.on_turn = agent_turn
    link_init_worker(worker)
    dial_init_worker(worker)
    target_init_worker(worker)
    data_init_worker(worker)
    handshake_init_worker(worker)
    parting_init_worker(worker)
    udp_target_init_worker(worker)
    role.host.opened = target_open
    role.host.housekeep = nothing
    role.host.closed = data_close
    role.host.tickets = data_dial
    role.host.ended = data_ended
    return 0


cdef void agent_free(Worker *worker) noexcept nogil:
    cdef AgentRole *role = agent_of(worker)
    if role == NULL:
        return
    relay_free_worker(worker)
    udp_target_free(role)
    free_targets(role.targets, role.target_count)
    free(role)
    worker.role = NULL


cdef void agent_discard(MailboxNode *message) noexcept nogil:
    if message.kind == MESSAGE_TARGETS:
        free_targets(
            (<TargetsMessage *>message).targets, (<TargetsMessage *>message).target_count
        )
    elif message.kind == MESSAGE_DIAL:
        tls_context_drop((<DialMessage *>message).tls)
        if (<DialMessage *>message).fd >= 0:
            socket_close((<DialMessage *>message).fd)


cdef void free_targets(TargetEntry *targets, uint32_t target_count) noexcept nogil:
    cdef uint32_t index
    for index in range(target_count):
        tls_context_drop(targets[index].tls)
    free(targets)


cdef void nothing(Link *link) noexcept nogil:
    pass


cdef Link *find_link(Worker *worker, uint64_t id) noexcept nogil:
    # An agent has a handful of links and looks one up per control record only.
    cdef uint32_t slot
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_LINK:
            if (<Link *>worker.conns[slot]).id == id:
                return <Link *>worker.conns[slot]
    return NULL


cdef bint agent_message(Worker *worker, MailboxNode *message) noexcept nogil:
    cdef AgentRole *role = agent_of(worker)
    cdef TargetsMessage *targets
    cdef LinkMessage *for_link
    cdef Link *link
    if message.kind == MESSAGE_DIAL:
        dial_start(worker, <const DialMessage *>message)
        tls_context_drop((<DialMessage *>message).tls)
    elif message.kind == MESSAGE_TARGETS:
        targets = <TargetsMessage *>message
        free_targets(role.targets, role.target_count)
        role.targets = targets.targets
        role.target_count = targets.target_count
        role.table_version += 1
    elif message.kind == MESSAGE_DRAIN:
        worker.is_draining = True
        worker.drain_deadline_ms = worker.now_ms + (<DrainMessage *>message).grace_ms
    elif message.kind == MESSAGE_LINK_SEND or message.kind == MESSAGE_LINK_CLOSE:
        for_link = <LinkMessage *>message
        link = find_link(worker, for_link.link)
        if link == NULL:
            return False
        if message.kind == MESSAGE_LINK_SEND:
            link_send_control(link, <const uint8_t *>(for_link + 1), for_link.size)
        else:
            link_close(link, <const char *>(for_link + 1))
    return False


cdef void agent_turn(Worker *worker) noexcept nogil:
    # Streams the server keeps idle in its pool it gives back when it hears of the drain.
    if worker.is_draining:
        crew_settle(worker, agent_of(worker).open_targets == 0)
