# See link_load.pxd.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.events cimport EVENT_LINK_LOAD
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.worker cimport CONN_LINK, Worker
from proxy_engine_core.link.link cimport Link

cdef enum:
    PARTS = 16                            # a link with less than one of so many is not told


cdef Link *link_at(const Worker *worker, uint32_t slot) noexcept nogil:
    if worker.conns[slot] == NULL or worker.conns[slot].kind != CONN_LINK:
        return NULL
    return <Link *>worker.conns[slot]


cdef inline uint64_t news_of(const Link *link) noexcept nogil:
    return link.bytes_in + link.bytes_out - link.bytes_told


cdef void tell_link_loads(Worker *worker) noexcept nogil:
    cdef uint64_t total = 0, news
    cdef uint32_t slot
    cdef Link *link
    for slot in range(worker.slot_count):
        link = link_at(worker, slot)
        if link != NULL:
            total += news_of(link)
    if total == 0:
        return
    for slot in range(worker.slot_count):
        link = link_at(worker, slot)
        if link == NULL:
            continue
        news = news_of(link)
        link.bytes_told += news
        if news * PARTS >= total and not link.is_closing:
            news_event(
                worker, EVENT_LINK_LOAD, link.id, news * 1000 // total, 0, 0, 0, NULL, 0, NULL, 0
            )
