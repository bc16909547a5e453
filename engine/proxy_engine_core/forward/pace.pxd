# Waiting for bandwidth. Bytes a visitor sent or took are paid for after they have passed, out of
# its transaction's quota; while that is in debt for them, the visitor is *paced*: nothing more is
# read from it, and what its socket took is not consumed, so that its stream gets no more credit.
# Nothing is dropped, its link and the other streams go on. Who has nothing on its way yet waits
# until the debts of others are paid.
#
# Each waits for itself, until what it has spent is paid: so all that share a quota, on whichever
# worker, come round in turn. The waiting is done in a timer wheel of its own, because the
# connection's timer goes on meanwhile.
#
# Everything here is for transactions with a quota; the others never get here.

from libc.stdint cimport uint32_t

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.io.worker cimport Worker


cdef void pace_init_worker(Worker *worker) noexcept nogil
# So many bytes have passed, either way.
cdef void pace_spend(Visitor *visitor, uint32_t size) noexcept nogil
# Its socket took all but `owed` of what came: consume and pay that, unless it is paced.
cdef void pace_credit(Visitor *visitor, uint32_t owed) noexcept nogil
# Nothing of it has been sent yet: True: it has to wait, and is woken.
cdef bint pace_newcomer(Visitor *visitor) noexcept nogil
# It need not wait any more: the transaction ends, or the limit has changed.
cdef void pace_stop(Visitor *visitor) noexcept nogil
cdef void pace_resume(Visitor *visitor) noexcept nogil

cdef inline bint is_paced(const Visitor *visitor) noexcept nogil:
    return visitor.pace.link != NULL
