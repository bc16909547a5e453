# Messages to a worker: any thread posts, the worker takes all at once.
#
# A message is one malloc'ed block with MailboxNode first; the receiver frees it.
# The eventfd is written only when the worker may be asleep: it sets `armed`
# before it sleeps and looks at the stack once more, a poster clears it and wakes.

from libc.stdint cimport uint32_t


cdef struct MailboxNode:
    MailboxNode *next
    uint32_t kind

cdef struct Mailbox:
    void *top                 # newest first
    int armed                 # 1: the next post must wake the worker
    int event_fd              # in the worker's epoll, edge-triggered, never read

cdef int mailbox_init(Mailbox *mailbox) noexcept nogil           # 0, -errno
cdef void mailbox_close(Mailbox *mailbox) noexcept nogil         # idempotent; frees messages
cdef void mailbox_post(Mailbox *mailbox, MailboxNode *message) noexcept nogil
# All messages, oldest first; NULL: none. Worker only.
cdef MailboxNode *mailbox_take(Mailbox *mailbox) noexcept nogil
# True when it is safe to sleep; False when a message has just come in.
cdef bint mailbox_arm(Mailbox *mailbox) noexcept nogil
