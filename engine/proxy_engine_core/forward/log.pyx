# See log.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from proxy_engine_core.atomic cimport counter_add
from proxy_engine_core.counters cimport (
    COUNT_LOG_DROPPED, COUNT_LOG_RECORDS, count,
)
from proxy_engine_core.durations cimport durations_add
from proxy_engine_core.forward.route_stats cimport (
    RouteStats, route_stats_begin, route_stats_end,
)
from proxy_engine_core.forward.transaction cimport (
    LOG_ABORTED, LOG_LOCAL, LOG_OPEN, LOG_TUNNEL, Transaction, Visitor, server_of,
    transaction_count,
)
from proxy_engine_core.io.news cimport news_log_written
from proxy_engine_core.io.sys cimport CLOCK_REALTIME, clock_gettime, timespec
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.spsc cimport spsc_publish, spsc_reserve


cdef inline uint8_t *put(uint8_t *place, const void *source, uint32_t size) noexcept nogil:
    memcpy(place, source, size)
    return place + size


cdef uint32_t describe(
    LogHeader *header, const Visitor *visitor, const char *reason, uint32_t more_flags
) noexcept nogil:
    """All of the header but its wall clock; the size of the record."""
    cdef const Transaction *transaction = visitor.transaction
    memset(header, 0, sizeof(LogHeader))
    header.device = transaction.device
    header.route = transaction.route
    header.flags = transaction.log_flags | more_flags
    header.status = transaction.status
    header.bytes_in = transaction.bytes_in
    header.bytes_out = transaction.bytes_out
    header.total_us = visitor.conn.worker.now_us - transaction.started_us
    if transaction.first_byte_us:
        header.first_byte_us = transaction.first_byte_us - transaction.started_us
        header.link_us = transaction.link_us
        header.target_us = (
            transaction.first_byte_us - transaction.sent_us - transaction.link_us
        )
    header.reason_size = <uint8_t>strlen(reason)
    header.address_size = visitor.address_size
    if transaction.client_size:
        header.address_size = transaction.client_size
    header.method_size = transaction.method_size
    header.host_size = transaction.host_size
    header.path_size = transaction.path_size
    header.request_id_size = transaction.request_id_size
    header.trace_size = transaction.trace_size
    header.trace_flags = transaction.trace_flags
    return log_size(header)


cdef void texts_of(const Visitor *visitor, const char *reason, LogTexts *texts) noexcept nogil:
    cdef const Transaction *transaction = visitor.transaction
    texts.request_id = <const uint8_t *>transaction.request_id
    texts.address = <const char *>visitor.address
    if transaction.client_size:
        texts.address = <const char *>transaction.client
    texts.method = <const uint8_t *>transaction.method_name
    texts.host = <const uint8_t *>transaction.host
    texts.path = <const uint8_t *>transaction.path
    texts.reason = reason
    texts.trace = &transaction.trace


cdef void fill(uint8_t *place, LogHeader *header, const LogTexts *texts) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    header.time_us = <uint64_t>now.tv_sec * 1_000_000 + <uint64_t>now.tv_nsec // 1000
    place = put(place, header, sizeof(LogHeader))
    place = put(place, texts.request_id, header.request_id_size)
    place = put(place, texts.address, header.address_size)
    place = put(place, texts.method, header.method_size)
    place = put(place, texts.host, header.host_size)
    place = put(place, texts.path, header.path_size)
    place = put(place, texts.reason, header.reason_size)
    if header.trace_size:
        put(place, texts.trace, header.trace_size)


cdef inline void count_end(
    Worker *worker, Transaction *transaction, const LogHeader *header
) noexcept nogil:
    cdef RouteStats *stats = transaction.stats
    if stats == NULL:
        stats = &server_of(worker).unrouted
        route_stats_begin(stats)
        transaction.stats = stats
    transaction_count(worker, transaction)
    if header.flags & (LOG_LOCAL | LOG_ABORTED):
        if header.flags & LOG_ABORTED:
            counter_add(&stats.aborted, 1)
        elif header.status < 500:
            counter_add(&stats.refused, 1)
        else:
            counter_add(&stats.failed, 1)
    if not header.flags & LOG_TUNNEL:
        durations_add(&stats.durations, header.total_us)
    route_stats_end(stats, header.status)
    transaction.stats = NULL


cdef void log_write(Visitor *visitor, const char *reason) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef LogHeader header
    cdef LogTexts texts
    describe(&header, visitor, reason, 0)
    count_end(worker, visitor.transaction, &header)
    texts_of(visitor, reason, &texts)
    log_put(worker, &header, &texts)


cdef void log_put(Worker *worker, LogHeader *header, const LogTexts *texts) noexcept nogil:
    cdef uint32_t size
    cdef uint8_t *place
    header.reason_size = <uint8_t>strlen(texts.reason)
    size = log_size(header)
    place = spsc_reserve(&worker.log_ring, size)
    if place == NULL:
        count(worker.counters, COUNT_LOG_DROPPED, 1)
        return
    fill(place, header, texts)
    spsc_publish(&worker.log_ring)
    count(worker.counters, COUNT_LOG_RECORDS, 1)
    news_log_written(worker, size)


cdef uint32_t log_open(const Visitor *visitor, uint8_t *place) noexcept nogil:
    cdef LogHeader header
    cdef LogTexts texts
    cdef uint32_t size = describe(&header, visitor, b"", LOG_OPEN)
    texts_of(visitor, b"", &texts)
    fill(place, &header, &texts)
    return size
