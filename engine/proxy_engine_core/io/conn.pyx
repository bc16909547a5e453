# See conn.pxd.

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from proxy_engine_core.atomic cimport counter_add
from proxy_engine_core.buffer cimport (
    buffer_append, buffer_consume, buffer_free, buffer_head, buffer_size,
)
from proxy_engine_core.check cimport CHECK
from proxy_engine_core.counters cimport (
    COUNT_CONNECTIONS_CLOSED, COUNT_LINK_WAITS, COUNT_MEMORY_CUT_OFF, COUNT_MEMORY_ERRORS, count,
)
from proxy_engine_core.io.pressure cimport pressure_may_keep
from proxy_engine_core.io.raw cimport raw_recv, raw_send, raw_sent
from proxy_engine_core.io.socket cimport socket_finish_writing, socket_reset_on_close
from proxy_engine_core.io.sys cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, MSG_NOSIGNAL, close,
    epoll_ctl, epoll_event, iovec, msghdr, sendmsg,
)
from proxy_engine_core.io.timer cimport timer_cancel, timer_remove, timer_set
from proxy_engine_core.io.tls cimport (
    tls_close, tls_finish_writing, tls_flush, tls_give, tls_recv, tls_send, tls_send_spans,
    tls_take,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_CLOSED, CONN_DIRTY, CONN_FINISHED, CONN_HUP, CONN_QUEUED, CONN_READABLE,
    CONN_TOLD, CONN_UDP_LISTENER, CONN_UDP_TARGET, CONN_WRITABLE, GATHER_COPY_MAX, GATHER_MAX,
    GENERATION_MASK, WORKER_ARENA_SIZE, Conn, Gather, WaitList, Worker,
)


# --- table ---------------------------------------------------------------------------

cdef int grow_table(Worker *worker) noexcept nogil:
    cdef uint32_t count_new = 64 if worker.slot_count == 0 else worker.slot_count * 2
    cdef uint32_t slot
    cdef void *block
    block = realloc(worker.conns, count_new * sizeof(Conn *))
    if block == NULL:
        return -12
    worker.conns = <Conn **>block
    block = realloc(worker.generations, count_new * sizeof(uint32_t))
    if block == NULL:
        return -12
    worker.generations = <uint32_t *>block
    block = realloc(worker.free_slots, count_new * sizeof(uint32_t))
    if block == NULL:
        return -12
    worker.free_slots = <uint32_t *>block
    for slot in range(worker.slot_count, count_new):
        worker.conns[slot] = NULL
        worker.generations[slot] = 1
        # Lowest slots first: the table stays dense.
        worker.free_slots[worker.free_count] = count_new - 1 - (slot - worker.slot_count)
        worker.free_count += 1
    worker.slot_count = count_new
    return 0


cdef int conn_try_attach(Worker *worker, Conn *conn, int fd, uint8_t kind) noexcept nogil:
    cdef epoll_event event
    cdef uint32_t slot
    if worker.free_count == 0 and grow_table(worker) < 0:
        count(worker.counters, COUNT_MEMORY_ERRORS, 1)
        return -12
    slot = worker.free_slots[worker.free_count - 1]
    conn.worker = worker
    conn.fd = fd
    conn.kind = kind
    conn.slot = slot
    conn.generation = worker.generations[slot]
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    if kind in (CONN_UDP_LISTENER, CONN_UDP_TARGET):
        event.events = EPOLLIN | EPOLLET  # room is no news: every datagram sent makes some
    event.data.u64 = (<uint64_t>conn.generation << 32) | slot
    if epoll_ctl(worker.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        return -errno
    worker.free_count -= 1
    worker.conns[slot] = conn
    counter_add(&worker.conn_count, 1)
    return 0


cdef int conn_attach(Worker *worker, Conn *conn, int fd, uint8_t kind) noexcept nogil:
    cdef int error = conn_try_attach(worker, conn, fd, kind)
    if error < 0:
        socket_reset_on_close(fd)         # never an end that looks as if all were well
        close(fd)
    return error


cdef void leave_lists(Conn *conn) noexcept nogil:
    # The ready and dirty lists are walked with CONN_CLOSED in view, so a closed
    # connection may stay in them until the end of the turn; timers and waits may not.
    timer_remove(&conn.worker.wheel, &conn.timer)
    conn_stop_waiting(conn)
    conn.flags |= CONN_CLOSED
    conn.next_closed = conn.worker.closed_first
    conn.worker.closed_first = conn


cdef void leave_table(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    worker.conns[conn.slot] = NULL
    worker.generations[conn.slot] = (worker.generations[conn.slot] + 1) & GENERATION_MASK
    worker.free_slots[worker.free_count] = conn.slot
    worker.free_count += 1
    counter_add(&worker.conn_count, <uint64_t>-1)


cdef void conn_replace(Conn *conn, Conn *successor, uint8_t kind) noexcept nogil:
    cdef Worker *worker = conn.worker
    if worker.gather.conn == conn:
        gather_flush(worker)
    successor.worker = worker
    successor.fd = conn.fd
    successor.slot = conn.slot
    successor.generation = conn.generation
    successor.kind = kind
    successor.flags = conn.flags & (CONN_READABLE | CONN_WRITABLE | CONN_HUP | CONN_BROKEN)
    tls_give(successor, tls_take(conn))
    worker.conns[conn.slot] = successor
    conn.fd = -1
    buffer_free(&conn.out)
    leave_lists(conn)


cdef void conn_close(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef bint is_cut_off = False
    if conn.flags & CONN_CLOSED:
        return
    if worker.gather.conn == conn:
        if conn.flags & CONN_BROKEN:
            worker.gather.conn = NULL
            worker.gather.count = 0
            worker.gather.arena_used = 0
        else:
            gather_flush(worker)
    if conn.tls != NULL:
        is_cut_off = tls_close(conn)
    if buffer_size(&conn.out) or conn.flags & CONN_BROKEN or is_cut_off:
        # Cut off in the middle of what we had to say (keep() drops it once the connection is
        # broken): never by an end that looks complete.
        socket_reset_on_close(conn.fd)
    close(conn.fd)             # leaves the epoll set by itself: nobody dups our fds
    conn.fd = -1
    buffer_free(&conn.out)
    leave_lists(conn)
    leave_table(conn)
    count(worker.counters, COUNT_CONNECTIONS_CLOSED, 1)


cdef void conn_abort(Conn *conn) noexcept nogil:
    if conn.tls != NULL:
        conn.tls.is_aborted = True
    socket_reset_on_close(conn.fd)


cdef int conn_detach(Conn *conn) noexcept nogil:
    cdef epoll_event unused
    cdef int fd = conn.fd
    CHECK(buffer_size(&conn.out) == 0)
    CHECK(conn.tls == NULL)
    CHECK(conn.worker.gather.conn != conn)
    epoll_ctl(conn.worker.epoll_fd, EPOLL_CTL_DEL, fd, &unused)
    conn.fd = -1
    leave_lists(conn)
    leave_table(conn)
    return fd


cdef void conn_requeue(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    if conn.flags & (CONN_QUEUED | CONN_CLOSED):
        return
    conn.flags |= CONN_QUEUED
    conn.next_ready = NULL
    if worker.ready_last == NULL:
        worker.ready_first = conn
    else:
        worker.ready_last.next_ready = conn
    worker.ready_last = conn


cdef void conn_mark_dirty(Conn *conn) noexcept nogil:
    if conn.flags & (CONN_DIRTY | CONN_CLOSED):
        return
    conn.flags |= CONN_DIRTY
    conn.next_dirty = conn.worker.dirty_first
    conn.worker.dirty_first = conn


# --- reading and writing --------------------------------------------------------------

cdef int64_t conn_recv(Conn *conn, uint8_t *target, size_t size) noexcept nogil:
    if conn.tls != NULL:
        return tls_recv(conn, target, size)
    return raw_recv(conn, target, size)


cdef int64_t conn_send(Conn *conn, const uint8_t *source, size_t size) noexcept nogil:
    cdef int64_t sent
    if conn.tls != NULL:
        sent = tls_send(conn, source, size)
    else:
        sent = raw_send(conn, source, size)
    if sent < 0:
        broken(conn)
    return sent


cdef int64_t send_spans(Conn *conn, iovec *spans, uint32_t span_count, size_t size) noexcept nogil:
    # conn_send() for several spans of `size` bytes in all.
    cdef msghdr message
    cdef int64_t outcome = -EINTR
    if conn.tls != NULL:
        outcome = tls_send_spans(conn, spans, span_count)
    else:
        memset(&message, 0, sizeof(message))
        message.msg_iov = spans
        message.msg_iovlen = span_count
        while outcome == -EINTR:
            outcome = raw_sent(conn, sendmsg(conn.fd, &message, MSG_NOSIGNAL), size)
    if outcome < 0:
        broken(conn)
    return outcome


cdef void broken(Conn *conn) noexcept nogil:
    # Found while writing, often deep in another connection's turn: the owner learns of
    # it from ready(). The peer may have answered before it broke off, so there may be
    # something to read that epoll has not told us of yet.
    conn.flags |= CONN_BROKEN | CONN_READABLE | CONN_TOLD
    conn_requeue(conn)


cdef void keep(Conn *conn, const uint8_t *source, size_t size) noexcept nogil:
    if conn.flags & CONN_BROKEN:
        return
    if not pressure_may_keep(conn.worker, <uint32_t>size):
        count(conn.worker.counters, COUNT_MEMORY_CUT_OFF, 1)
        broken(conn)
        return
    if size > 0xFFFFFFF or buffer_append(&conn.out, source, <uint32_t>size) < 0:
        count(conn.worker.counters, COUNT_MEMORY_ERRORS, 1)
        broken(conn)


cdef void conn_gather(Conn *conn, const uint8_t *source, size_t size) noexcept nogil:
    cdef Gather *gather = &conn.worker.gather
    cdef iovec *last
    cdef uint8_t *last_end
    cdef uint32_t arena_used
    if size == 0 or conn.flags & (CONN_CLOSED | CONN_BROKEN):
        return
    if buffer_size(&conn.out) or not conn.flags & CONN_WRITABLE:
        if gather.conn == conn:
            gather_flush(conn.worker)
        keep(conn, source, size)
        return
    if gather.conn != conn or gather.count == GATHER_MAX:
        # The source may be the arena's newest piece, so what is used stays used.
        arena_used = gather.arena_used
        gather_flush(conn.worker)
        gather.arena_used = arena_used
        gather.conn = conn
    elif gather.count:
        last = &gather.spans[gather.count - 1]
        last_end = <uint8_t *>last.iov_base + last.iov_len
        if last_end == source:
            last.iov_len += size
            return
        # A small body behind its rewritten head: one copy and a plain send cost less than
        # a sendmsg of two spans.
        if (
            size <= GATHER_COPY_MAX and last_end == conn.worker.arena + gather.arena_used
            and gather.arena_used + size <= WORKER_ARENA_SIZE
        ):
            memcpy(last_end, source, size)
            gather.arena_used += <uint32_t>size
            last.iov_len += size
            return
    gather.spans[gather.count].iov_base = <void *>source
    gather.spans[gather.count].iov_len = size
    gather.count += 1


cdef uint8_t *conn_arena(Worker *worker, uint32_t size) noexcept nogil:
    cdef uint8_t *place
    if size > WORKER_ARENA_SIZE:
        return NULL
    if worker.gather.arena_used + size > WORKER_ARENA_SIZE:
        gather_flush(worker)
    place = worker.arena + worker.gather.arena_used
    worker.gather.arena_used += size
    return place


cdef void conn_arena_trim(Worker *worker, const uint8_t *end) noexcept nogil:
    worker.gather.arena_used = <uint32_t>(end - worker.arena)


cdef void gather_flush(Worker *worker) noexcept nogil:
    cdef Gather *gather = &worker.gather
    cdef Conn *conn = gather.conn
    cdef uint32_t index
    cdef int64_t sent
    cdef size_t total = 0
    cdef size_t left
    gather.conn = NULL
    gather.arena_used = 0
    if conn == NULL or gather.count == 0:
        return
    for index in range(gather.count):
        total += gather.spans[index].iov_len
    if gather.count == 1:
        sent = conn_send(conn, <uint8_t *>gather.spans[0].iov_base, total)
    else:
        sent = send_spans(conn, gather.spans, gather.count, total)
    if sent >= 0 and <size_t>sent < total:
        left = <size_t>sent
        for index in range(gather.count):
            if left >= gather.spans[index].iov_len:
                left -= gather.spans[index].iov_len
                continue
            keep(
                conn, <uint8_t *>gather.spans[index].iov_base + left,
                gather.spans[index].iov_len - left,
            )
            left = 0
    gather.count = 0
    conn.worker.ops[conn.kind].sent(conn)


cdef void conn_write(Conn *conn, const uint8_t *source, size_t size) noexcept nogil:
    conn_gather(conn, source, size)
    if conn.worker.gather.conn == conn:
        gather_flush(conn.worker)


cdef void conn_finish_writing(Conn *conn) noexcept nogil:
    CHECK(conn_owed(conn) == 0)
    if not conn.flags & (CONN_FINISHED | CONN_BROKEN):
        conn.flags |= CONN_FINISHED
        if conn.tls != NULL:
            tls_finish_writing(conn)
        else:
            socket_finish_writing(conn.fd)


cdef void conn_flush_out(Conn *conn) noexcept nogil:
    cdef int64_t sent
    cdef bint moved = False
    while buffer_size(&conn.out) and conn.flags & CONN_WRITABLE:
        sent = conn_send(conn, buffer_head(&conn.out), buffer_size(&conn.out))
        if sent < 0:
            return
        if sent > 0:
            buffer_consume(&conn.out, <uint32_t>sent)
            moved = True
    if moved:
        conn.worker.ops[conn.kind].sent(conn)


cdef void conn_push(Conn *conn) noexcept nogil:
    cdef int64_t sent
    if not buffer_size(&conn.tls.out):
        return
    sent = tls_flush(conn)
    if sent < 0:
        broken(conn)
    elif sent > 0 and conn.worker.ops[conn.kind].sent != NULL:
        conn.worker.ops[conn.kind].sent(conn)


# --- time and waiting -------------------------------------------------------------------

cdef void conn_deadline(Conn *conn, uint64_t after_ms) noexcept nogil:
    if after_ms == 0:
        timer_cancel(&conn.timer)
    else:
        timer_set(&conn.worker.wheel, &conn.timer, conn.worker.now_ms + after_ms)


cdef void conn_wait(Conn *conn, WaitList *waiting) noexcept nogil:
    if conn.wait_list != NULL:
        return
    count(conn.worker.counters, COUNT_LINK_WAITS, 1)
    conn.wait_list = waiting
    conn.wait_next = NULL
    conn.wait_previous = waiting.last
    if waiting.last == NULL:
        waiting.first = conn
    else:
        waiting.last.wait_next = conn
    waiting.last = conn


cdef void conn_stop_waiting(Conn *conn) noexcept nogil:
    cdef WaitList *waiting = conn.wait_list
    if waiting == NULL:
        return
    if conn.wait_previous == NULL:
        waiting.first = conn.wait_next
    else:
        conn.wait_previous.wait_next = conn.wait_next
    if conn.wait_next == NULL:
        waiting.last = conn.wait_previous
    else:
        conn.wait_next.wait_previous = conn.wait_previous
    conn.wait_list = NULL


cdef void conn_wake_first(WaitList *waiting) noexcept nogil:
    cdef Conn *conn = waiting.first
    conn_stop_waiting(conn)
    conn_requeue(conn)


cdef void conn_wake_all(WaitList *waiting) noexcept nogil:
    while waiting.first != NULL:
        conn_wake_first(waiting)
