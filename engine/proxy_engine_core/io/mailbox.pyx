# See mailbox.pxd.

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from proxy_engine_core.atomic cimport (
    atomic_exchange_flag, atomic_stack_is_empty, atomic_stack_push, atomic_stack_take_all,
    atomic_store_flag,
)
from proxy_engine_core.io.sys cimport EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, write


cdef int mailbox_init(Mailbox *mailbox) noexcept nogil:
    mailbox.top = NULL
    mailbox.armed = 1
    mailbox.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    return -errno if mailbox.event_fd < 0 else 0


cdef void mailbox_close(Mailbox *mailbox) noexcept nogil:
    cdef MailboxNode *node = mailbox_take(mailbox)
    cdef MailboxNode *following
    while node != NULL:
        following = node.next
        free(node)
        node = following
    if mailbox.event_fd >= 0:
        close(mailbox.event_fd)
    mailbox.event_fd = -1


cdef void mailbox_post(Mailbox *mailbox, MailboxNode *message) noexcept nogil:
    cdef uint64_t one = 1
    atomic_stack_push(&mailbox.top, message)
    if atomic_exchange_flag(&mailbox.armed, 0):
        # Can only fail with EAGAIN at 2^64-2 unread wakes; it is then awake anyway.
        write(mailbox.event_fd, &one, sizeof(one))


cdef MailboxNode *mailbox_take(Mailbox *mailbox) noexcept nogil:
    cdef MailboxNode *node = <MailboxNode *>atomic_stack_take_all(&mailbox.top)
    cdef MailboxNode *reversed_list = NULL
    cdef MailboxNode *following
    while node != NULL:
        following = node.next
        node.next = reversed_list
        reversed_list = node
        node = following
    return reversed_list


cdef bint mailbox_arm(Mailbox *mailbox) noexcept nogil:
    atomic_store_flag(&mailbox.armed, 1)
    return atomic_stack_is_empty(&mailbox.top)
