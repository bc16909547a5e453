# How large a window is. See window.pxd for the rule.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.yamux.session cimport WindowBudget, YamuxSession, YamuxStream


cdef enum:
    BURST_SIZE = 256 * 1024              # bytes: what comes in at once anyhow
    EPOCH_US_MIN = 10_000                # shorter ones measure how threads are scheduled
    EPOCH_ROUND_TRIPS_MAX = 64           # a longer pause says no more, and nothing overflows


cdef uint64_t room(uint64_t used, uint64_t most) noexcept nogil:
    return most - used if used < most else 0


cdef uint32_t window_widen(YamuxStream *stream, uint32_t size) noexcept nogil:
    cdef YamuxSession *session = stream.session
    cdef WindowBudget *budget = session.budget
    cdef uint64_t most = size
    if budget == NULL or budget.is_short or stream.is_fixed:
        return 0
    most = min(most, room(stream.window, budget.stream_max))
    most = min(most, room(session.extra, budget.session_max))
    most = min(most, room(budget.extra, budget.extra_max))
    stream.window += <uint32_t>most
    stream.ungranted += <uint32_t>most
    session.extra += most
    budget.extra += most
    return <uint32_t>most


cdef void window_narrow(YamuxStream *stream, uint32_t goal) noexcept nogil:
    # Withhold what could be granted now, down to `goal`.
    cdef WindowBudget *budget = stream.session.budget
    cdef uint32_t most
    if stream.window <= goal:
        return
    most = min(stream.window - goal, stream.ungranted)
    stream.window -= most
    stream.ungranted -= most
    stream.session.extra -= most
    budget.extra -= most
    budget.withheld += most


cdef void window_measure(YamuxStream *stream, uint32_t size) noexcept nogil:
    cdef YamuxSession *session = stream.session
    cdef WindowBudget *budget = session.budget
    cdef uint64_t now_us = budget.clock_us[0]
    cdef uint64_t rtt_us = session.rtt_us
    cdef uint64_t epoch_us, delivered_by_rtt
    if budget.is_short:
        window_narrow(stream, session.window)
    if rtt_us == 0:
        return
    if stream.epoch_us == 0:
        # What arrived before the epoch began proves nothing.
        stream.epoch_us = now_us
        stream.busy_us = now_us
        return
    stream.delivered += size
    if stream.unconsumed + size > max(stream.window // WINDOW_BEHIND_PART, BURST_SIZE):
        # Nor does what a destination that does not keep up takes now and then.
        stream.delivered = 0
    epoch_us = now_us - stream.epoch_us
    if epoch_us < rtt_us or epoch_us < EPOCH_US_MIN:
        return
    # delivered / epoch against window / round trip, without dividing.
    delivered_by_rtt = <uint64_t>stream.delivered * rtt_us
    epoch_us = min(epoch_us, rtt_us * EPOCH_ROUND_TRIPS_MAX)
    if delivered_by_rtt * WINDOW_QUIET_PART >= stream.window * epoch_us:
        stream.busy_us = now_us
        if delivered_by_rtt * 10 > <uint64_t>stream.window * WINDOW_BUSY_TENTHS * epoch_us:
            if window_widen(stream, stream.window):
                budget.grown += 1
    elif now_us - stream.busy_us >= WINDOW_QUIET_US:
        window_narrow(stream, session.window_start)
    stream.epoch_us = now_us
    stream.delivered = 0


cdef void window_forget(YamuxStream *stream) noexcept nogil:
    cdef uint32_t extra = stream.window - stream.session.window
    if extra:
        stream.session.extra -= extra
        stream.session.budget.extra -= extra
        stream.window = stream.session.window
