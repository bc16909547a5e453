# What crosses from worker to worker: messages, and totals all of them keep.
#
# Links: how many each worker has or is about to get, so that the next one goes where the
# fewest are. Whoever decides on a worker counts; whoever ends the link, or what should
# have become one, counts it off.
#
# Drain: `unsettled` is the number of workers with something in flight plus the number of
# connections in mailboxes. It begins with all workers. A sender counts a connection before
# it can count itself off, a receiver counts itself before it counts the connection off: so
# it can not reach 0 while anything is left.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.io.mailbox cimport MailboxNode
from proxy_engine_core.io.worker cimport Crew, Worker


cdef void crew_init(Crew *crew, uint32_t worker_count) noexcept nogil
cdef void crew_post(Crew *crew, uint32_t index, MailboxNode *message) noexcept nogil
# Send a message with a connection to another worker, and take one in at its end.
cdef void crew_send_conn(Crew *crew, uint32_t index, MailboxNode *message) noexcept nogil
cdef void crew_conn_arrived(Worker *worker) noexcept nogil
# The worker with the fewest links; `preferred` if it is among them.
cdef uint32_t crew_least_linked(const Crew *crew, uint32_t preferred) noexcept nogil
cdef void crew_add_link(Crew *crew, uint32_t index) noexcept nogil
cdef void crew_drop_link(Crew *crew, uint32_t index) noexcept nogil
# Once a turn while draining: EVENT_DRAINED, once for all, when nothing is in flight
# anywhere or the time is over.
cdef void crew_settle(Worker *worker, bint is_idle) noexcept nogil
