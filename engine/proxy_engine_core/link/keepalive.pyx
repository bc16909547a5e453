# See keepalive.pxd.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.counters cimport (
    COUNT_LINKS_SILENT, COUNT_LINKS_STALLED, COUNT_PINGS_SENT, count,
)
from proxy_engine_core.durations cimport durations_add
from proxy_engine_core.io.conn cimport conn_deadline
from proxy_engine_core.io.worker cimport CONN_WRITABLE, Conn, Worker, worker_random
from proxy_engine_core.link.control cimport control_grant
from proxy_engine_core.link.end cimport link_fail
from proxy_engine_core.link.link cimport Link, link_host
from proxy_engine_core.link.output cimport link_touch, link_waiting_size
from proxy_engine_core.link.round_trip cimport round_trip_add, round_trip_known
from proxy_engine_core.yamux.send cimport yamux_session_ping


cdef void keepalive_start(Link *link) noexcept nogil:
    link.rtt_period_ms = LINK_RTT_PERIOD_MIN_MS
    schedule(link)
    round_trip_measure(link)


cdef void schedule(Link *link) noexcept nogil:
    # +-20 %, so that ten thousand devices do not ping in step. From the last input to the ping it
    # is 1.2 intervals at most, to each of the two misses 0.85: dead within three.
    cdef Worker *worker = link.conn.worker
    cdef uint64_t interval_ms = worker.options.ping_interval_ms
    cdef uint64_t silent_ms = worker.now_ms - link.input_ms
    cdef uint64_t wait_ms
    if link.session.ping_outstanding and silent_ms >= interval_ms * 4 // 5:
        wait_ms = fair_chance_ms(worker) + worker_random(worker) % (interval_ms * 3 // 20 + 1)
    else:
        wait_ms = interval_ms * 4 // 5 + worker_random(worker) % (interval_ms * 2 // 5 + 1)
        wait_ms -= min(silent_ms, wait_ms - 1)
    conn_deadline(&link.conn, wait_ms)


cdef inline uint64_t fair_chance_ms(const Worker *worker) noexcept nogil:
    # For the answer to a ping.
    return worker.options.ping_interval_ms * 7 // 10


cdef void link_timeout(Conn *conn) noexcept nogil:
    cdef Link *link = <Link *>conn
    cdef Worker *worker = conn.worker
    cdef uint64_t interval = worker.options.ping_interval_ms
    # Only what the socket has refused counts: frames of this very turn may be waiting for
    # their first flush after a long silence.
    if (
        link_waiting_size(link) and not conn.flags & CONN_WRITABLE
        and worker.now_ms - link.progress_ms >= worker.options.link_stall_ms
    ):
        count(worker.counters, COUNT_LINKS_STALLED, 1)
        link_fail(link, b"stalled")
        return
    if worker.now_ms - link.input_ms >= interval * 4 // 5:
        if link.session.ping_outstanding:
            # Housekeeping may come earlier than the ping had a fair chance.
            if worker.now_ms - link.ping_ms >= fair_chance_ms(worker):
                link.ping_ms = worker.now_ms
                link.ping_misses += 1
                if link.ping_misses >= 2:
                    count(worker.counters, COUNT_LINKS_SILENT, 1)
                    link_fail(link, b"ping_timeout")
                    return
        else:
            link.ping_misses = 0
            link.rtt_period_ms = LINK_RTT_PERIOD_MIN_MS       # silent until now
            round_trip_measure(link)
    schedule(link)
    control_grant(link)
    link_host(worker).housekeep(link)


cdef void round_trip_measure(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    if yamux_session_ping(&link.session, <uint32_t>worker_random(worker)) != 0:
        return
    link.ping_ms = worker.now_ms
    link.ping_us = worker.now_us
    link.ping_bytes = link.bytes_in + link.bytes_out
    count(worker.counters, COUNT_PINGS_SENT, 1)
    link_touch(link)


cdef void round_trip_take(Link *link) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef uint64_t rtt_us = worker.now_us - link.ping_us
    durations_add(&link_host(worker).round_trips, rtt_us)
    if round_trip_add(&link.round_trip, rtt_us, link.bytes_in + link.bytes_out - link.ping_bytes):
        link.rtt_period_ms = LINK_RTT_PERIOD_MIN_MS
    link.session.rtt_us = round_trip_known(&link.round_trip)
