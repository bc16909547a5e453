# See crew.pxd.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from proxy_engine_core.atomic cimport (
    atomic_add, atomic_exchange_flag, atomic_load_flag, atomic_load_relaxed, atomic_subtract,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.events cimport EVENT_DRAINED
from proxy_engine_core.io.mailbox cimport MailboxNode, mailbox_post
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.worker cimport Crew, Worker


cdef void crew_init(Crew *crew, uint32_t worker_count) noexcept nogil:
    memset(crew, 0, sizeof(Crew))
    crew.worker_count = worker_count
    crew.unsettled = worker_count


cdef void crew_post(Crew *crew, uint32_t index, MailboxNode *message) noexcept nogil:
    CHECK(index < crew.worker_count)
    mailbox_post(&crew.workers[index].mailbox, message)


cdef void crew_send_conn(Crew *crew, uint32_t index, MailboxNode *message) noexcept nogil:
    atomic_add(&crew.unsettled, 1)
    crew_post(crew, index, message)


cdef void crew_conn_arrived(Worker *worker) noexcept nogil:
    if worker.is_settled:
        worker.is_settled = False
        atomic_add(&worker.crew.unsettled, 1)
    atomic_subtract(&worker.crew.unsettled, 1)


cdef uint32_t crew_least_linked(const Crew *crew, uint32_t preferred) noexcept nogil:
    cdef uint32_t index, best = preferred
    cdef uint64_t links, fewest = atomic_load_relaxed(&crew.links[preferred])
    for index in range(crew.worker_count):
        links = atomic_load_relaxed(&crew.links[index])
        if links < fewest:
            fewest = links
            best = index
    return best


cdef void crew_add_link(Crew *crew, uint32_t index) noexcept nogil:
    atomic_add(&crew.links[index], 1)


cdef void crew_drop_link(Crew *crew, uint32_t index) noexcept nogil:
    CHECK(atomic_load_relaxed(&crew.links[index]) > 0)
    atomic_subtract(&crew.links[index], 1)


cdef void crew_settle(Worker *worker, bint is_idle) noexcept nogil:
    cdef Crew *crew = worker.crew
    cdef bint is_over = worker.now_ms >= worker.drain_deadline_ms
    if atomic_load_flag(&crew.is_drained):
        return
    if is_idle and not worker.is_settled:
        worker.is_settled = True
        is_over = atomic_subtract(&crew.unsettled, 1) == 0 or is_over
    elif worker.is_settled and not is_idle:
        worker.is_settled = False
        atomic_add(&crew.unsettled, 1)
    if is_over and not atomic_exchange_flag(&crew.is_drained, 1):
        news_event(worker, EVENT_DRAINED, 0, 0, 0, 0, 0, NULL, 0, NULL, 0)
