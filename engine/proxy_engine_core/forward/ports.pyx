# See ports.pxd.

from libc.stdlib cimport free

from proxy_engine_core.counters cimport COUNT_MEMORY_ERRORS, count
from proxy_engine_core.forward.transaction cimport ServerRole, server_of
from proxy_engine_core.forward.udp cimport udp_close, udp_listen
from proxy_engine_core.io.listener cimport listener_close, listener_open
from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.socket cimport socket_close
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.messages cimport (
    MESSAGE_TCP_CLOSE, MESSAGE_TCP_LISTEN, MESSAGE_UDP_LISTEN, TcpListenMessage,
)


cdef bint is_open(Worker *worker, const TcpListenMessage *message) noexcept nogil:
    if message.node.kind == MESSAGE_UDP_LISTEN:
        return udp_listen(worker, message.fd, message.port) == 0
    return listener_open(worker, message.fd, message.port, 0, NULL) == 0


cdef bint port_open(Worker *worker, TcpListenMessage *message) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    if worker.is_draining:
        socket_close(message.fd)
        return False
    if is_open(worker, message):
        return False
    count(worker.counters, COUNT_MEMORY_ERRORS, 1)
    message.node.next = role.late_ports
    role.late_ports = &message.node
    worker.is_retrying = True
    return True


cdef void port_close(Worker *worker, const TcpListenMessage *message) noexcept nogil:
    cdef bint is_tcp = message.node.kind == MESSAGE_TCP_CLOSE
    cdef int kind = MESSAGE_TCP_LISTEN if is_tcp else MESSAGE_UDP_LISTEN
    cdef MailboxNode **place = &server_of(worker).late_ports
    cdef TcpListenMessage *late
    while place[0] != NULL:
        late = <TcpListenMessage *>place[0]
        if late.node.kind == kind and late.port == message.port:
            place[0] = late.node.next
            socket_close(late.fd)
            free(late)
        else:
            place = &late.node.next
    if is_tcp:
        listener_close(worker, message.port)
    else:
        udp_close(worker, message.port)


cdef void ports_retry(Worker *worker) noexcept nogil:
    cdef MailboxNode **place = &server_of(worker).late_ports
    cdef TcpListenMessage *late
    while place[0] != NULL:
        late = <TcpListenMessage *>place[0]
        if is_open(worker, late):
            place[0] = late.node.next
            free(late)
        else:
            place = &late.node.next
    worker.is_retrying = server_of(worker).late_ports != NULL


cdef void ports_forget(ServerRole *role) noexcept nogil:
    cdef TcpListenMessage *late
    while role.late_ports != NULL:
        late = <TcpListenMessage *>role.late_ports
        role.late_ports = late.node.next
        socket_close(late.fd)
        free(late)
