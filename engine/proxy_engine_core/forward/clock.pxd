# How long a visitor may take: deadlines of what it waits for, and the least rates at which
# it has to send and take. One timer a connection; every clock below is a moment it is set
# to, the earliest of those that run.
#
#   request, response   transaction_deadline(): docs/architecture.md has the table
#   upload              while the response has not begun, the body so far must not be later
#                       than rate_grace_ms + bytes / upload_rate_min. Time in which we did
#                       not read, for want of window or room in the link, is not the visitor's
#   reader              while output waits for the visitor's socket: reader_timeout_ms without
#                       a byte taken, and rate_grace_ms + bytes / download_rate_min in all

from libc.stdint cimport uint32_t

from proxy_engine_core.forward.transaction cimport Transaction, Visitor
from proxy_engine_core.io.worker cimport Worker


# What this request may wait for next.
cdef void transaction_deadline(Visitor *visitor) noexcept nogil
# The target of a TCP tunnel has not been connected yet, and will tell.
cdef bint is_connecting(const Transaction *transaction) noexcept nogil
# Between requests and at the end: how long the visitor has for what comes next.
cdef void visitor_rest_deadline(Visitor *visitor) noexcept nogil
# The visitor's output has moved, or begun to wait; `owed` bytes of it wait now.
cdef void reader_moved(Visitor *visitor, uint32_t owed) noexcept nogil
cdef bint reader_is_late(const Visitor *visitor) noexcept nogil
cdef bint upload_is_late(const Visitor *visitor) noexcept nogil

cdef inline void upload_starts(Transaction *transaction, const Worker *worker) noexcept nogil:
    transaction.upload_since_ms = worker.now_ms

# We do not read, or do again: the deadline is another one.
cdef void upload_stops(Visitor *visitor) noexcept nogil
cdef void upload_goes_on(Visitor *visitor) noexcept nogil
# Is it the visitor whom the body waits for?
cdef inline bint upload_is_awaited(const Transaction *transaction) noexcept nogil:
    return not transaction.request_done and transaction.upload_stopped_ms == 0
