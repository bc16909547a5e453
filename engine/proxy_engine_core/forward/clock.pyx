# See clock.pxd.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from proxy_engine_core.forward.transaction cimport (
    RESPONSE_HEAD, VISITOR_ACTIVE, VISITOR_DIRECT, VISITOR_HEAD, VISITOR_LINGER, VISITOR_TUNNEL,
    Transaction, Visitor,
)
from proxy_engine_core.io.conn cimport conn_deadline, conn_owed
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.yamux.session cimport YAMUX_STREAM_ACK_RECEIVED


cdef inline uint64_t earlier(uint64_t one, uint64_t other) noexcept nogil:
    return one if one < other else other


cdef void transaction_deadline(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    cdef uint64_t at_ms
    cdef uint64_t after_ms = worker.options.body_timeout_ms
    if visitor.state == VISITOR_TUNNEL or visitor.state == VISITOR_DIRECT:
        after_ms = worker.options.tunnel_timeout_ms
        if is_connecting(transaction):
            after_ms = worker.options.open_timeout_ms
    elif transaction.response_state == RESPONSE_HEAD:
        # A stock peer may send its ACK with the first data, or never.
        if (
            transaction.link.has_preamble
            and not transaction.http.stream.flags & YAMUX_STREAM_ACK_RECEIVED
        ):
            after_ms = worker.options.open_timeout_ms
        elif transaction.request_done:
            after_ms = worker.options.response_timeout_ms
    at_ms = worker.now_ms + after_ms
    if upload_runs(visitor):
        at_ms = earlier(at_ms, upload_limit_ms(visitor))
    if visitor.reader_since_ms != 0:
        at_ms = earlier(at_ms, reader_limit_ms(visitor))
    conn_deadline(&visitor.conn, at_ms - worker.now_ms if at_ms > worker.now_ms else 1)


cdef bint is_connecting(const Transaction *transaction) noexcept nogil:
    if transaction.data != NULL:
        return not transaction.data.is_accepted
    return (
        transaction.is_tcp and transaction.link.has_preamble
        and not transaction.http.stream.flags & YAMUX_STREAM_ACK_RECEIVED
    )


cdef void visitor_rest_deadline(Visitor *visitor) noexcept nogil:
    # A slow reader still takes the last response, as fast as it can: neither the idle nor
    # the linger time runs before it has it all.
    cdef Worker *worker = visitor.conn.worker
    cdef uint64_t at_ms
    cdef uint32_t owed = conn_owed(&visitor.conn)
    if owed:
        if visitor.reader_since_ms == 0:
            reader_moved(visitor, owed)   # kept without an attempt to send
        at_ms = reader_limit_ms(visitor)
        conn_deadline(&visitor.conn, at_ms - worker.now_ms if at_ms > worker.now_ms else 1)
    elif visitor.state == VISITOR_LINGER:
        conn_deadline(&visitor.conn, worker.options.linger_timeout_ms)
    elif visitor.state == VISITOR_HEAD:
        conn_deadline(&visitor.conn, worker.options.keepalive_timeout_ms)


# --- uploads ----------------------------------------------------------------------------------

cdef inline bint upload_runs(const Visitor *visitor) noexcept nogil:
    cdef const Transaction *transaction = visitor.transaction
    return (
        not transaction.request_done
        and visitor.state == VISITOR_ACTIVE
        and transaction.response_state == RESPONSE_HEAD
        and transaction.upload_since_ms != 0
        and transaction.upload_stopped_ms == 0
        and visitor.conn.worker.options.upload_rate_min != 0
    )


cdef uint64_t upload_limit_ms(const Visitor *visitor) noexcept nogil:
    cdef const Transaction *transaction = visitor.transaction
    cdef Worker *worker = visitor.conn.worker
    return (
        transaction.upload_since_ms + worker.options.rate_grace_ms
        + transaction.bytes_in * 1000 // worker.options.upload_rate_min
    )


cdef bint upload_is_late(const Visitor *visitor) noexcept nogil:
    return (
        visitor.transaction != NULL and upload_runs(visitor)
        and upload_limit_ms(visitor) <= visitor.conn.worker.now_ms
    )


cdef void upload_stops(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    if transaction.upload_stopped_ms == 0:
        transaction.upload_stopped_ms = visitor.conn.worker.now_ms
        transaction_deadline(visitor)


cdef void upload_goes_on(Visitor *visitor) noexcept nogil:
    cdef Transaction *transaction = visitor.transaction
    if transaction.upload_stopped_ms != 0:
        if transaction.upload_since_ms != 0:   # else a 100 (Continue) is waited for
            transaction.upload_since_ms += (
                visitor.conn.worker.now_ms - transaction.upload_stopped_ms
            )
        transaction.upload_stopped_ms = 0
        transaction_deadline(visitor)


# --- readers ----------------------------------------------------------------------------------

cdef inline uint64_t bytes_taken(const Visitor *visitor, uint32_t owed) noexcept nogil:
    cdef uint64_t passed = visitor.bytes_passed
    if visitor.transaction != NULL:
        passed += visitor.transaction.bytes_out
    return passed - owed


cdef void reader_moved(Visitor *visitor, uint32_t owed) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    if owed == 0 or visitor.transaction != NULL and visitor.transaction.is_tcp:
        # Of a byte stream nobody knows what a pause means: only its idle time counts.
        visitor.reader_since_ms = 0
        return
    if visitor.reader_since_ms == 0:
        visitor.reader_since_ms = worker.now_ms
        visitor.reader_taken = bytes_taken(visitor, owed)
    visitor.reader_moved_ms = worker.now_ms


cdef uint64_t reader_limit_ms(const Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef uint64_t limit_ms = visitor.reader_moved_ms + worker.options.reader_timeout_ms
    cdef int64_t taken
    if worker.options.download_rate_min != 0:
        # Encrypted it is a little more than it was, so what is owed may seem to grow.
        taken = <int64_t>(
            bytes_taken(visitor, conn_owed(&visitor.conn)) - visitor.reader_taken
        )
        taken = max(taken, <int64_t>0)
        limit_ms = earlier(
            limit_ms,
            visitor.reader_since_ms + worker.options.rate_grace_ms
            + <uint64_t>taken * 1000 // worker.options.download_rate_min,
        )
    return limit_ms


cdef bint reader_is_late(const Visitor *visitor) noexcept nogil:
    return (
        visitor.reader_since_ms != 0
        and reader_limit_ms(visitor) <= visitor.conn.worker.now_ms
    )
