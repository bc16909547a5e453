# See pace.pxd.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.counters cimport COUNT_TOKEN_PAUSES, count
from proxy_engine_core.forward.transaction cimport ServerRole, Visitor, server_of
from proxy_engine_core.io.conn cimport conn_owed, conn_requeue
from proxy_engine_core.io.timer cimport (
    TIMER_TICK_MS, Timer, timer_remove, timer_set, timer_wheel_expire, timer_wheel_init,
    timer_wheel_wait_ms,
)
from proxy_engine_core.io.worker cimport CONN_PACER, Conn, Worker
from proxy_engine_core.link.output cimport link_touch
from proxy_engine_core.quota cimport quota_spend, quota_wait_us
from proxy_engine_core.yamux.session cimport YamuxStream
from proxy_engine_core.yamux.stream cimport yamux_stream_consume

cdef enum:
    PAUSE_MS_MAX = 24 * 3_600_000         # then it is looked at again


cdef void pace_init_worker(Worker *worker) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    role.pacer.worker = worker
    role.pacer.kind = CONN_PACER
    worker.ops[<int>CONN_PACER].timeout = resume_due
    timer_wheel_init(&role.pace_wheel, worker.now_ms)


cdef void pause(Visitor *visitor, uint64_t wait_us) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef ServerRole *role = server_of(worker)
    cdef uint64_t deadline_ms = worker.now_ms + min(wait_us // 1000 + 1, PAUSE_MS_MAX)
    if visitor.pace.link == NULL:
        count(worker.counters, COUNT_TOKEN_PAUSES, 1)
        if role.pace_count == 0:
            role.pace_wheel.tick = worker.now_ms // TIMER_TICK_MS    # nobody turned it
        role.pace_count += 1
    timer_set(&role.pace_wheel, &visitor.pace, deadline_ms)
    if role.pacer.timer.deadline_ms == 0 or deadline_ms < role.pacer.timer.deadline_ms:
        timer_set(&worker.wheel, &role.pacer.timer, deadline_ms)


cdef void resume_due(Conn *pacer) noexcept nogil:
    cdef Worker *worker = pacer.worker
    cdef ServerRole *role = server_of(worker)
    cdef Timer *timer
    cdef Visitor *visitor
    cdef int wait_ms
    while True:
        timer = timer_wheel_expire(&role.pace_wheel, worker.now_ms)
        if timer == NULL:
            break
        role.pace_count -= 1
        visitor = <Visitor *>(<char *>timer - <size_t>&(<Visitor *>NULL).pace)
        go_on(visitor)
    wait_ms = timer_wheel_wait_ms(&role.pace_wheel, worker.now_ms)
    if role.pace_count and wait_ms >= 0:
        timer_set(&worker.wheel, &role.pacer.timer, worker.now_ms + max(wait_ms, 1) - 1)


cdef void go_on(Visitor *visitor) noexcept nogil:
    if visitor.transaction.http != NULL:
        pace_credit(visitor, conn_owed(&visitor.conn))
    conn_requeue(&visitor.conn)


cdef void pace_spend(Visitor *visitor, uint32_t size) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef uint64_t wait_us = quota_spend(
        visitor.transaction.quota, worker.now_us, size, worker.options.bandwidth_burst_ms
    )
    if wait_us:
        pause(visitor, wait_us)


cdef void pace_credit(Visitor *visitor, uint32_t owed) noexcept nogil:
    cdef YamuxStream *stream = visitor.transaction.http.stream
    cdef uint32_t size
    if stream.unconsumed <= owed or is_paced(visitor):
        return
    size = stream.unconsumed - owed
    yamux_stream_consume(stream, size)
    link_touch(visitor.transaction.link)
    pace_spend(visitor, size)


cdef bint pace_newcomer(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef uint64_t wait_us
    if is_paced(visitor):
        return True
    wait_us = quota_wait_us(
        visitor.transaction.quota, worker.now_us, worker.options.bandwidth_burst_ms
    )
    if wait_us == 0:
        return False
    pause(visitor, wait_us)
    return True


cdef void pace_stop(Visitor *visitor) noexcept nogil:
    cdef ServerRole *role = server_of(visitor.conn.worker)
    if is_paced(visitor):
        timer_remove(&role.pace_wheel, &visitor.pace)
        role.pace_count -= 1


cdef void pace_resume(Visitor *visitor) noexcept nogil:
    if is_paced(visitor):
        pace_stop(visitor)
        go_on(visitor)
