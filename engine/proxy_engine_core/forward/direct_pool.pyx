# See direct_pool.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_DIRECT_CONNECTIONS, COUNT_DIRECT_LOST, COUNT_DIRECT_MISSED,
    COUNT_DIRECT_TICKETS_EXPIRED, COUNT_DIRECT_TICKETS_ISSUED, COUNT_DIRECT_TICKETS_REFUSED,
    COUNT_DIRECT_TICKETS_USED, COUNT_MEMORY_ERRORS, count,
)
from proxy_engine_core.forward.pool cimport close_soon_if_idle
from proxy_engine_core.forward.route cimport Route, route_links
from proxy_engine_core.forward.transaction cimport DataConn, Visitor
from proxy_engine_core.http1.head cimport FIELD_PROXY_ENGINE_TICKET, Field, Head, head_field
from proxy_engine_core.io.conn cimport conn_abort, conn_close, conn_deadline
from proxy_engine_core.io.pressure cimport PRESSURE_NONE
from proxy_engine_core.io.relay cimport relay_free
from proxy_engine_core.io.secret cimport secret_fill, secret_is_same
from proxy_engine_core.io.worker cimport (
    CONN_CLOSED, CONN_LINK, Conn, Worker, conn_handle, handle_worker, worker_conn,
)
from proxy_engine_core.link.control cimport link_send_control
from proxy_engine_core.link.link cimport CONTROL_TICKETS, TICKET_SIZE, Link
from proxy_engine_core.wire cimport load_be64, store_be64


# --- life -------------------------------------------------------------------------------

cdef void direct_begin(Worker *worker, const Route *route) noexcept nogil:
    cdef const uint64_t *links = route_links(route)
    cdef Conn *conn
    cdef Link *link
    cdef DirectPool *pool
    cdef uint32_t index
    for index in range(route.link_count):
        conn = worker_conn(worker, links[index])
        if conn == NULL or conn.kind != CONN_LINK:
            continue
        link = <Link *>conn
        if link.direct != NULL or link.direct_max == 0 or link.is_closing or link.is_draining:
            continue
        if link.conn.tls != NULL:
            continue                      # what it hides, they would show
        pool = <DirectPool *>calloc(1, sizeof(DirectPool))
        if pool == NULL:
            count(worker.counters, COUNT_MEMORY_ERRORS, 1)
            continue
        pool.wanted = min(link.direct_max, <uint32_t>POOL_MIN)
        pool.look_ms = worker.now_ms + worker.options.direct_shrink_ms
        link.direct = pool
        look_after(link, 1)


cdef void direct_pool_free(Link *link) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>link.direct
    if pool == NULL:
        return
    CHECK(pool.busy == NULL)
    while pool.idle != NULL:
        direct_release(pool.idle, False)
    link.direct = NULL
    free(pool)


cdef void direct_lost(DataConn *data) noexcept nogil:
    # Where something closes them all, they come back slowly.
    cdef Link *link = data.link
    cdef DirectPool *pool = <DirectPool *>link.direct
    cdef Worker *worker = link.conn.worker
    count(worker.counters, COUNT_DIRECT_LOST, 1)
    direct_release(data, False)
    pool.refill_ms = max(pool.refill_ms, worker.now_ms + LOST_PAUSE_MS)
    refill_soon(link, pool)


cdef void direct_drain(Link *link) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>link.direct
    if pool == NULL:
        return
    pool.wanted = 0
    pool.ticket_count = 0
    while pool.idle != NULL:
        direct_release(pool.idle, False)


cdef void look_after(Link *link, uint64_t after_ms) noexcept nogil:
    if link.conn.timer.deadline_ms > link.conn.worker.now_ms + after_ms:
        conn_deadline(&link.conn, after_ms)


# --- the stock ----------------------------------------------------------------------------

cdef void unlink(DataConn *data) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>data.link.direct
    if data.newer != NULL:
        data.newer.older = data.older
    elif data.visitor == NULL:
        pool.idle = data.older
    else:
        pool.busy = data.older
    if data.older != NULL:
        data.older.newer = data.newer
    if data.visitor == NULL:
        pool.idle_count -= 1
    data.newer = NULL
    data.older = NULL


cdef void direct_put(Link *link, DataConn *data) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>link.direct
    data.link = link
    data.older = pool.idle
    if pool.idle != NULL:
        pool.idle.newer = data
    pool.idle = data
    pool.idle_count += 1


cdef DataConn *direct_take(Link *link, Visitor *visitor) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>link.direct
    cdef Worker *worker = link.conn.worker
    cdef DataConn *data
    if pool == NULL:
        return NULL
    data = pool.idle
    if data == NULL:
        count(worker.counters, COUNT_DIRECT_MISSED, 1)
        pool.lowest = 0
        if pool.ticket_count == 0 and pool.wanted:
            pool.wanted = min(link.direct_max, 2 * pool.wanted)
            refill_soon(link, pool)
        return NULL
    unlink(data)
    data.visitor = visitor
    data.older = pool.busy
    if pool.busy != NULL:
        pool.busy.newer = data
    pool.busy = data
    pool.lowest = min(pool.lowest, pool.idle_count)
    link.requests += 1
    count(worker.counters, COUNT_DIRECT_CONNECTIONS, 1)
    refill_soon(link, pool)
    return data


cdef void direct_release(DataConn *data, bint is_reset) noexcept nogil:
    cdef Link *link = data.link
    if data.conn.flags & CONN_CLOSED:
        return
    unlink(data)
    relay_free(&data.up, link.conn.worker)
    relay_free(&data.down, link.conn.worker)
    if is_reset:
        conn_abort(&data.conn)
    conn_close(&data.conn)
    if data.visitor != NULL:
        data.visitor = NULL
        link.requests -= 1
        close_soon_if_idle(link)


cdef void refill_soon(Link *link, DirectPool *pool) noexcept nogil:
    cdef uint64_t now_ms = link.conn.worker.now_ms
    if pool.wanted:
        look_after(link, pool.refill_ms - now_ms if pool.refill_ms > now_ms else 1)


cdef void direct_housekeep(Link *link) noexcept nogil:
    cdef DirectPool *pool = <DirectPool *>link.direct
    cdef Worker *worker = link.conn.worker
    if pool == NULL or link.is_closing:
        return
    expire(link, pool)
    if worker.now_ms >= pool.look_ms:
        shrink(pool)
        pool.look_ms = worker.now_ms + worker.options.direct_shrink_ms
    if pool.wanted > POOL_MIN:
        look_after(link, pool.look_ms - worker.now_ms)
    if worker.now_ms < pool.refill_ms:
        refill_soon(link, pool)
        return
    if pool.idle_count + pool.ticket_count < pool.wanted:
        if worker.pressure == PRESSURE_NONE:
            refill(link, pool)
        else:
            look_after(link, PAUSE_MS)


cdef void shrink(DirectPool *pool) noexcept nogil:
    """A quarter fewer where at least so many were never needed since the last look."""
    cdef uint32_t surplus = pool.wanted // 4
    if pool.lowest > surplus and pool.wanted > POOL_MIN:
        pool.wanted = max(<uint32_t>POOL_MIN, pool.wanted - surplus)
    while pool.idle_count > pool.wanted:
        direct_release(pool.idle, False)
    pool.lowest = pool.idle_count


# --- tickets ------------------------------------------------------------------------------

cdef void expire(Link *link, DirectPool *pool) noexcept nogil:
    cdef Worker *worker = link.conn.worker
    cdef uint32_t index = 0
    cdef uint32_t expired = 0
    while index < pool.ticket_count:
        if pool.tickets[index].deadline_ms > worker.now_ms:
            index += 1
            continue
        pool.ticket_count -= 1
        pool.tickets[index] = pool.tickets[pool.ticket_count]
        expired += 1
    if expired == 0:
        return
    count(worker.counters, COUNT_DIRECT_TICKETS_EXPIRED, expired)
    if pool.answered:
        pool.answered = 0
        pool.pause_ms = 0
        return
    # Nothing comes through: something on the way knows no such connections.
    pool.pause_ms = PAUSE_MS if pool.pause_ms == 0 else min(
        2 * pool.pause_ms, <uint64_t>PAUSE_MS_MAX
    )
    pool.refill_ms = worker.now_ms + pool.pause_ms


cdef void refill(Link *link, DirectPool *pool) noexcept nogil:
    """Tickets for what is missing. May end the link."""
    cdef Worker *worker = link.conn.worker
    cdef uint8_t record[1 + POOL_MAX * TICKET_SIZE]
    cdef uint8_t *place = record + 1
    cdef Ticket *ticket
    cdef uint32_t missing = pool.wanted - pool.idle_count - pool.ticket_count
    cdef uint32_t _missing
    record[0] = CONTROL_TICKETS
    pool.refill_ms = worker.now_ms + REFILL_MS
    for _missing in range(missing):
        ticket = &pool.tickets[pool.ticket_count]
        if not secret_fill(ticket.secret, sizeof(ticket.secret)):
            break
        ticket.deadline_ms = worker.now_ms + worker.options.direct_ticket_ms
        pool.ticket_count += 1
        store_be64(place, conn_handle(&link.conn))
        memcpy(place + 8, ticket.secret, sizeof(ticket.secret))
        place += TICKET_SIZE
    if place == record + 1:
        return
    count(worker.counters, COUNT_DIRECT_TICKETS_ISSUED, missing)
    look_after(link, worker.options.direct_ticket_ms + 1)
    link_send_control(link, record, <uint32_t>(place - record))


cdef int digit_value(uint8_t digit) noexcept nogil:
    if c'0' <= digit <= c'9':
        return digit - c'0'
    return digit - c'a' + 10 if c'a' <= digit <= c'f' else -1


cdef bint read_ticket(const Head *head, uint8_t *ticket) noexcept nogil:
    cdef const Field *field = head_field(head, FIELD_PROXY_ENGINE_TICKET)
    cdef const uint8_t *digits
    cdef int high, low, index
    if field == NULL or field.value.size != 2 * TICKET_SIZE:
        return False
    digits = head.bytes + field.value.start
    for index in range(TICKET_SIZE):
        high = digit_value(digits[2 * index])
        low = digit_value(digits[2 * index + 1])
        if high < 0 or low < 0:
            return False
        ticket[index] = <uint8_t>(high << 4 | low)
    return True


cdef int ticket_worker(Worker *worker, const Head *head) noexcept nogil:
    cdef uint8_t ticket[TICKET_SIZE]
    cdef uint32_t index
    if not read_ticket(head, ticket):
        return -1
    index = handle_worker(load_be64(ticket))
    return <int>index if index < worker.crew.worker_count else -1


cdef Link *ticket_redeem(Worker *worker, const Head *head) noexcept nogil:
    cdef uint8_t ticket[TICKET_SIZE]
    cdef Conn *conn = NULL
    cdef DirectPool *pool
    cdef uint32_t index
    if read_ticket(head, ticket):
        conn = worker_conn(worker, load_be64(ticket))
    if conn != NULL and conn.kind == CONN_LINK and (<Link *>conn).direct != NULL:
        pool = <DirectPool *>(<Link *>conn).direct
        for index in range(pool.ticket_count):
            if not secret_is_same(
                pool.tickets[index].secret, ticket + 8, sizeof(pool.tickets[index].secret)
            ):
                continue
            if pool.tickets[index].deadline_ms <= worker.now_ms:
                break                     # housekeeping counts it
            pool.ticket_count -= 1
            pool.tickets[index] = pool.tickets[pool.ticket_count]
            pool.answered += 1
            count(worker.counters, COUNT_DIRECT_TICKETS_USED, 1)
            return <Link *>conn
    count(worker.counters, COUNT_DIRECT_TICKETS_REFUSED, 1)
    return NULL
