# See news.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from proxy_engine_core.counters cimport COUNT_MEMORY_ERRORS, count
from proxy_engine_core.io.sys cimport write
from proxy_engine_core.io.worker cimport EventOverflow, EventRecord, Worker
from proxy_engine_core.spsc cimport spsc_publish, spsc_reserve


cdef void fill_record(
    uint8_t *place, const EventRecord *record, const void *first, const void *second
) noexcept nogil:
    # An absent string is NULL, which memcpy() may not be given even for no bytes.
    memcpy(place, record, sizeof(EventRecord))
    if record.first_size:
        memcpy(place + sizeof(EventRecord), first, record.first_size)
    if record.second_size:
        memcpy(place + sizeof(EventRecord) + record.first_size, second, record.second_size)


cdef void news_event(
    Worker *worker, uint32_t kind, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    const void *first, uint32_t first_size, const void *second, uint32_t second_size
) noexcept nogil:
    cdef EventRecord record
    cdef uint32_t size = sizeof(EventRecord) + first_size + second_size
    cdef uint8_t *place = NULL
    cdef EventOverflow *kept
    record.kind = kind
    record.first_size = first_size
    record.second_size = second_size
    record.reserved = 0
    record.a = a
    record.b = b
    record.c = c
    record.d = d
    record.e = e
    worker.control_news = True
    if worker.overflow_first == NULL:
        place = spsc_reserve(&worker.control_ring, size)
    if place != NULL:
        fill_record(place, &record, first, second)
        spsc_publish(&worker.control_ring)
        return
    kept = <EventOverflow *>malloc(sizeof(EventOverflow) + size)
    if kept == NULL:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return
    kept.next = NULL
    kept.size = size
    fill_record(<uint8_t *>(kept + 1), &record, first, second)
    if worker.overflow_last == NULL:
        worker.overflow_first = kept
    else:
        worker.overflow_last.next = kept
    worker.overflow_last = kept


cdef void move_overflow(Worker *worker) noexcept nogil:
    cdef EventOverflow *kept
    cdef uint8_t *place
    while worker.overflow_first != NULL:
        kept = worker.overflow_first
        place = spsc_reserve(&worker.control_ring, kept.size)
        if place == NULL:
            return
        memcpy(place, kept + 1, kept.size)
        spsc_publish(&worker.control_ring)
        worker.overflow_first = kept.next
        if kept.next == NULL:
            worker.overflow_last = NULL
        free(kept)
        worker.control_news = True


cdef void news_log_written(Worker *worker, uint32_t size) noexcept nogil:
    if worker.log_news_since_us == 0:
        worker.log_news_since_us = worker.now_us
    worker.log_news_bytes += size


cdef void news_tell(Worker *worker) noexcept nogil:
    # One eventfd write for all that this turn produced: control events at once, logs when
    # they are worth a wake-up.
    cdef uint64_t one = 1
    cdef bint is_busy
    if worker.overflow_first != NULL:
        move_overflow(worker)
    if worker.log_news_since_us and (
        worker.log_news_bytes >= LOG_WAKE_BYTES
        or worker.now_us - worker.log_news_since_us >= worker.log_wake_us
    ):
        is_busy = worker.log_news_bytes >= LOG_BUSY_BYTES
        worker.log_wake_us = LOG_WAKE_BUSY_US if is_busy else LOG_WAKE_US
        worker.control_news = True
    if worker.control_news:
        worker.control_news = False
        worker.log_news_since_us = 0
        worker.log_news_bytes = 0
        write(worker.python_fd, &one, sizeof(one))


cdef void news_free(Worker *worker) noexcept nogil:
    cdef EventOverflow *kept
    while worker.overflow_first != NULL:
        kept = worker.overflow_first
        worker.overflow_first = kept.next
        free(kept)
