# See walk.pxd.

from libc.stdint cimport uint32_t

from proxy_engine_core.counters cimport COUNT_TOKEN_ENDED, count
from proxy_engine_core.events cimport EVENT_REQUESTS_OPEN
from proxy_engine_core.forward.log cimport LOG_RECORD_SIZE_MAX, log_open
from proxy_engine_core.forward.pace cimport pace_resume
from proxy_engine_core.forward.transaction cimport (
    VISITOR_AUTH, Transaction, Visitor, transaction_fail,
)
from proxy_engine_core.io.crew cimport crew_post
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.worker cimport CONN_VISITOR, WORKER_SCRATCH_SIZE, Worker
from proxy_engine_core.messages cimport MESSAGE_QUOTA_CHANGED, OpenMessage, QuotaMessage
from proxy_engine_core.quota cimport Quota, quota_enter_anyway

cdef enum:
    SLOTS_PER_TURN = 4096


cdef Visitor *next_visitor(
    const Worker *worker, uint32_t *cursor, uint32_t end
) noexcept nogil:
    """The next one before slot `end` that has a request under way; NULL: none."""
    cdef uint32_t slot
    while cursor[0] < min(end, worker.slot_count):
        slot = cursor[0]
        cursor[0] += 1
        if (
            worker.conns[slot] != NULL and worker.conns[slot].kind == CONN_VISITOR
            and (<Visitor *>worker.conns[slot]).transaction != NULL
        ):
            return <Visitor *>worker.conns[slot]
    return NULL


cdef bint walk_quota(Worker *worker, QuotaMessage *message) noexcept nogil:
    cdef uint32_t end = message.cursor + SLOTS_PER_TURN
    cdef Visitor *visitor
    while True:
        visitor = next_visitor(worker, &message.cursor, end)
        if visitor == NULL:
            break
        if message.node.kind == MESSAGE_QUOTA_CHANGED:
            count_in(visitor, message.quota)
        elif visitor.transaction.joined_by == message.quota:
            count(worker.counters, COUNT_TOKEN_ENDED, 1)
            transaction_fail(visitor, 0, b"token_ended", b"")
    if message.cursor >= worker.slot_count:
        return False
    crew_post(worker.crew, worker.index, &message.node)
    return True


cdef void count_in(Visitor *visitor, Quota *quota) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    if (
        transaction.quota == NULL and (transaction.http != NULL or transaction.data != NULL)
        and transaction.link.quota == quota
    ):
        quota_enter_anyway(quota)
        transaction.quota = quota
        transaction.is_quota_admitted = True
    if transaction.quota == quota:
        pace_resume(visitor)


cdef bint walk_open(Worker *worker, OpenMessage *message) noexcept nogil:
    # As many as go into the scratch, which is nobody's between two connections.
    cdef uint32_t end = message.cursor + SLOTS_PER_TURN
    cdef uint32_t size = 0
    cdef bint is_last
    cdef Visitor *visitor
    while message.limit and size + LOG_RECORD_SIZE_MAX <= WORKER_SCRATCH_SIZE:
        visitor = next_visitor(worker, &message.cursor, end)
        if visitor == NULL:
            break
        if visitor.state != VISITOR_AUTH:       # the control plane logs those itself
            size += log_open(visitor, worker.scratch + size)
            message.limit -= 1
    is_last = message.limit == 0 or message.cursor >= worker.slot_count
    if size or is_last:
        news_event(
            worker, EVENT_REQUESTS_OPEN, message.query, is_last, 0, 0, 0, worker.scratch, size,
            NULL, 0,
        )
    if not is_last:
        crew_post(worker.crew, worker.index, &message.node)
    return not is_last
