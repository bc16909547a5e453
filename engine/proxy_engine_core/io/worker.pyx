# See worker.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc

from proxy_engine_core.atomic cimport gauge_set
from proxy_engine_core.buffer cimport buffer_pool_free, buffer_pool_init
from proxy_engine_core.counters cimport COUNT_SLOW_TURNS, COUNT_TURNS, count
from proxy_engine_core.events cimport EVENT_SLOW_TURN
from proxy_engine_core.io.conn cimport conn_close, conn_push, gather_flush
from proxy_engine_core.io.mailbox cimport (
    MailboxNode, mailbox_arm, mailbox_close, mailbox_init, mailbox_post, mailbox_take,
)
from proxy_engine_core.io.news cimport LOG_WAKE_US, news_event, news_free, news_tell
from proxy_engine_core.io.pressure cimport pressure_init, pressure_look
from proxy_engine_core.io.sampler cimport sampler_signal_number, sampler_thread_id
from proxy_engine_core.io.sys cimport (
    CLOCK_MONOTONIC, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CLOEXEC,
    EPOLL_CTL_ADD, PTHREAD_CANCEL_ASYNCHRONOUS, PTHREAD_CANCEL_DISABLE, SIGABRT, SIGBUS,
    SIGFPE, SIGILL, SIGSEGV, SIG_SETMASK, clock_gettime, close, epoll_create1, epoll_ctl,
    epoll_event, epoll_wait, getrandom, pthread_create, pthread_getcpuclockid, pthread_join,
    pthread_self, pthread_setcancelstate, pthread_setcanceltype, pthread_setname_np,
    pthread_sigmask, sigdelset, sigfillset, sigset_t, timespec,
)
from proxy_engine_core.io.timer cimport (
    Timer, timer_wheel_expire, timer_wheel_init, timer_wheel_wait_ms,
)
from proxy_engine_core.options cimport Options
from proxy_engine_core.spsc cimport spsc_free, spsc_init

cdef enum:
    MAILBOX_TOKEN = 0xFFFFFFFF        # epoll data of the mailbox's eventfd: no slot
    MESSAGE_STOP = 0                  # kinds above belong to the role
    NEW_BATCH = 16                    # connections that speak for the first time, a turn


# --- life -----------------------------------------------------------------------------

cdef void read_clock(Worker *worker) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    worker.now_us = <uint64_t>now.tv_sec * 1_000_000 + <uint64_t>now.tv_nsec // 1000
    worker.now_ms = worker.now_us // 1000


cdef Worker *worker_new(
    Crew *crew, uint32_t index, int python_fd, const Options *options
) noexcept nogil:
    """A worker with everything it needs, not running; NULL: errno tells."""
    cdef Worker *worker = <Worker *>calloc(1, sizeof(Worker))
    cdef epoll_event event
    if worker == NULL:
        return NULL
    worker.crew = crew
    worker.index = index
    worker.python_fd = python_fd
    worker.options = options
    worker.mailbox.event_fd = -1
    worker.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    worker.scratch = <uint8_t *>malloc(WORKER_SCRATCH_SIZE)
    worker.link_scratch = <uint8_t *>malloc(WORKER_LINK_READ_SIZE)
    worker.arena = <uint8_t *>malloc(WORKER_ARENA_SIZE)
    if (
        worker.epoll_fd < 0 or worker.scratch == NULL or worker.link_scratch == NULL
        or worker.arena == NULL or mailbox_init(&worker.mailbox) < 0
        or spsc_init(&worker.control_ring, CONTROL_RING_SIZE) < 0
        or spsc_init(&worker.log_ring, options.log_ring_size) < 0
        or getrandom(&worker.random_state, 8, 0) != 8
    ):
        worker_free(worker)
        return NULL
    event.events = EPOLLIN | EPOLLET
    event.data.u64 = MAILBOX_TOKEN
    if epoll_ctl(worker.epoll_fd, EPOLL_CTL_ADD, worker.mailbox.event_fd, &event) < 0:
        worker_free(worker)
        return NULL
    buffer_pool_init(&worker.pool)
    pressure_init(worker)
    worker.log_wake_us = LOG_WAKE_US
    read_clock(worker)
    timer_wheel_init(&worker.wheel, worker.now_ms)
    return worker


cdef void worker_close_conns(Worker *worker) noexcept nogil:
    cdef uint32_t slot
    worker.is_stopping = True
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL:
            conn_close(worker.conns[slot])
    free_closed(worker)


cdef void worker_close_fds(Worker *worker) noexcept nogil:
    mailbox_close(&worker.mailbox)
    if worker.epoll_fd >= 0:
        close(worker.epoll_fd)
    worker.epoll_fd = -1


cdef void worker_free(Worker *worker) noexcept nogil:
    worker_close_conns(worker)
    worker_close_fds(worker)
    news_free(worker)
    spsc_free(&worker.control_ring)
    spsc_free(&worker.log_ring)
    buffer_pool_free(&worker.pool)
    free(worker.conns)
    free(worker.generations)
    free(worker.free_slots)
    free(worker.scratch)
    free(worker.link_scratch)
    free(worker.arena)
    free(worker)


cdef void *thread_main(void *argument) noexcept nogil:
    cdef sigset_t blocked
    cdef char[16] name
    # Signals are the control plane's; only crashes may hit a worker, and who asks where it is.
    sigfillset(&blocked)
    sigdelset(&blocked, SIGSEGV)
    sigdelset(&blocked, SIGBUS)
    sigdelset(&blocked, SIGFPE)
    sigdelset(&blocked, SIGILL)
    sigdelset(&blocked, SIGABRT)
    sigdelset(&blocked, sampler_signal_number())
    pthread_sigmask(SIG_SETMASK, &blocked, NULL)
    snprintf(name, sizeof(name), "engine-%u", (<Worker *>argument).index)
    pthread_setname_np(pthread_self(), name)      # what top, perf and gdb show
    gauge_set(&(<Worker *>argument).thread_id, sampler_thread_id())
    # Nobody cancels a worker. glibc (2.36) makes a thread cancellable around each recv(), send()
    # and epoll_wait(), by two compare-and-swaps, unless it is already.
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL)
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL)
    worker_run(<Worker *>argument)
    return NULL


cdef int worker_start(Worker *worker) noexcept nogil:
    cdef int error = pthread_create(&worker.thread, NULL, thread_main, worker)
    if error:
        return -error
    worker.has_thread = True
    worker.has_cpu_clock = pthread_getcpuclockid(worker.thread, &worker.cpu_clock) == 0
    return 0


cdef uint64_t worker_cpu_us(const Worker *worker) noexcept nogil:
    # The clock names the thread to the kernel, so it only fails when the thread has gone.
    cdef timespec used
    if not worker.has_cpu_clock or clock_gettime(worker.cpu_clock, &used) < 0:
        return 0
    return <uint64_t>used.tv_sec * 1_000_000 + <uint64_t>used.tv_nsec // 1000


cdef void worker_ask_to_stop(Worker *worker) noexcept nogil:
    cdef MailboxNode *message
    if not worker.has_thread:
        return
    message = <MailboxNode *>calloc(1, sizeof(MailboxNode))
    if message == NULL:
        # No memory even for this: the flag is seen at the next turn.
        worker.is_stopping = True
    else:
        message.kind = MESSAGE_STOP
        mailbox_post(&worker.mailbox, message)


cdef void worker_join(Worker *worker) noexcept nogil:
    if not worker.has_thread:
        return
    pthread_join(worker.thread, NULL)
    worker.has_thread = False
    gauge_set(&worker.thread_id, 0)


cdef uint64_t worker_random(Worker *worker) noexcept nogil:
    # splitmix64, seeded by getrandom.
    cdef uint64_t z
    worker.random_state += <uint64_t>0x9E3779B97F4A7C15
    z = worker.random_state
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


# --- the turn -------------------------------------------------------------------------

cdef int dispatch(Worker *worker, epoll_event *event) noexcept nogil:
    # 1 if it took time.
    cdef uint32_t slot = <uint32_t>event.data.u64
    cdef uint32_t generation = <uint32_t>(event.data.u64 >> 32)
    cdef uint32_t events = event.events
    cdef Conn *conn
    if slot >= worker.slot_count:
        return 0                                # the mailbox
    conn = worker.conns[slot]
    if conn == NULL or conn.generation != generation:
        return 0                                # closed earlier in this batch
    if events & EPOLLIN:
        conn.flags |= CONN_READABLE
    if events & EPOLLOUT:
        conn.flags |= CONN_WRITABLE
        if conn.tls != NULL:
            conn_push(conn)                     # what is encrypted goes first
    if events & EPOLLRDHUP:
        conn.flags |= CONN_READABLE | CONN_HUP
    if events & (EPOLLHUP | EPOLLERR):
        conn.flags |= CONN_READABLE | CONN_HUP
        # A hang-up after our own shutdown is the peer's ordinary end of file, with bytes
        # perhaps still to be read.
        if events & EPOLLERR or not conn.flags & CONN_FINISHED:
            conn.flags |= CONN_BROKEN
    if conn.flags & CONN_NEW:
        if conn.flags & CONN_READABLE:          # it can be written to, but there is nothing yet
            queue_new(conn)
        return 0
    worker.ops[conn.kind].ready(conn)
    return 1


cdef void take_events(Worker *worker) noexcept nogil:
    # New connections only line up, so go on for as long as they are most of what there is:
    # when thousands come at once, the request of somebody who is here already would
    # otherwise stand behind all of them in epoll's own line.
    cdef int wait = sleep_ms(worker)
    cdef int handled = 0
    cdef int ready, index
    gauge_set(&worker.busy_since_us, 0)
    while True:
        ready = epoll_wait(worker.epoll_fd, worker.events, WORKER_EVENTS_MAX, wait)
        read_clock(worker)
        if worker.busy_since_us == 0:
            gauge_set(&worker.busy_since_us, worker.now_us)
        for index in range(ready):
            handled += dispatch(worker, &worker.events[index])
        if ready < WORKER_EVENTS_MAX or handled >= WORKER_EVENTS_MAX:
            return
        wait = 0


cdef void queue_new(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    if conn.flags & CONN_QUEUED:
        return
    conn.flags |= CONN_QUEUED
    conn.next_ready = NULL
    if worker.new_last == NULL:
        worker.new_first = conn
    else:
        worker.new_last.next_ready = conn
    worker.new_last = conn


cdef void run_new(Worker *worker) noexcept nogil:
    cdef Conn *conn
    cdef int _new
    for _new in range(NEW_BATCH):
        conn = worker.new_first
        if conn == NULL:
            return
        worker.new_first = conn.next_ready
        if worker.new_first == NULL:
            worker.new_last = NULL
        conn.flags &= ~(CONN_QUEUED | CONN_NEW)
        if not conn.flags & CONN_CLOSED:
            worker.ops[conn.kind].ready(conn)


cdef void run_ready(Worker *worker) noexcept nogil:
    # What is requeued while this runs waits for the next turn: epoll gets its chance.
    cdef Conn *conn = worker.ready_first
    cdef Conn *following
    worker.ready_first = NULL
    worker.ready_last = NULL
    while conn != NULL:
        following = conn.next_ready
        conn.flags &= ~CONN_QUEUED
        if not conn.flags & CONN_CLOSED:
            worker.ops[conn.kind].ready(conn)
        conn = following


cdef void run_timers(Worker *worker) noexcept nogil:
    cdef Timer *timer
    cdef Conn *conn
    while True:
        timer = timer_wheel_expire(&worker.wheel, worker.now_ms)
        if timer == NULL:
            return
        conn = <Conn *>(<char *>timer - <size_t>&(<Conn *>NULL).timer)
        worker.ops[conn.kind].timeout(conn)


cdef void flush_dirty(Worker *worker) noexcept nogil:
    cdef Conn *conn
    gather_flush(worker)
    while worker.dirty_first != NULL:
        conn = worker.dirty_first
        worker.dirty_first = conn.next_dirty
        conn.flags &= ~CONN_DIRTY
        if not conn.flags & CONN_CLOSED:
            worker.ops[conn.kind].flush(conn)


cdef void free_closed(Worker *worker) noexcept nogil:
    cdef Conn *conn
    cdef Conn *kept = NULL
    while worker.closed_first != NULL:
        conn = worker.closed_first
        worker.closed_first = conn.next_closed
        if conn.flags & (CONN_QUEUED | CONN_DIRTY) and not worker.is_stopping:
            conn.next_closed = kept              # still in the list of the next turn
            kept = conn
        else:
            worker.ops[conn.kind].release(conn)
    worker.closed_first = kept
    if worker.is_stopping:
        # They may name what has just been freed, and nobody walks them again.
        worker.ready_first = NULL
        worker.ready_last = NULL
        worker.new_first = NULL
        worker.new_last = NULL
        worker.dirty_first = NULL


cdef void run_mailbox(Worker *worker) noexcept nogil:
    cdef MailboxNode *message = mailbox_take(&worker.mailbox)
    cdef MailboxNode *following
    while message != NULL:
        following = message.next
        if message.kind == MESSAGE_STOP:
            worker.is_stopping = True
            free(message)
        elif not worker.on_message(worker, message):
            free(message)
        message = following


cdef int sleep_ms(Worker *worker) noexcept nogil:
    # How long epoll_wait may block: 0 when there is work, -1 for ever.
    cdef int wait = timer_wheel_wait_ms(&worker.wheel, worker.now_ms)
    cdef int log_wait = <int>worker.log_wake_us // 1000
    if worker.ready_first != NULL or worker.new_first != NULL or not mailbox_arm(&worker.mailbox):
        return 0
    if worker.log_news_since_us and (wait < 0 or wait > log_wait):
        wait = log_wait
    if (worker.overflow_first != NULL or worker.is_draining) and (wait < 0 or wait > 10):
        wait = 10
    return wait


cdef void look_at_turn(Worker *worker) noexcept nogil:
    # What was run in a turn that long, who watches has seen meanwhile (stack_look()).
    cdef timespec now
    cdef uint64_t took_us
    clock_gettime(CLOCK_MONOTONIC, &now)
    took_us = (
        <uint64_t>now.tv_sec * 1_000_000 + <uint64_t>now.tv_nsec // 1000 - worker.busy_since_us
    )
    if took_us >= worker.options.slow_turn_ms * 1000:
        count(worker.counters, COUNT_SLOW_TURNS, 1)
        news_event(
            worker, EVENT_SLOW_TURN, worker.index, took_us, worker.busy_since_us, 0, 0,
            NULL, 0, NULL, 0,
        )


cdef void worker_run(Worker *worker) noexcept nogil:
    while not worker.is_stopping:
        take_events(worker)
        count(worker.counters, COUNT_TURNS, 1)
        run_mailbox(worker)
        run_ready(worker)
        run_new(worker)
        run_timers(worker)
        if worker.on_turn != NULL:
            worker.on_turn(worker)
        flush_dirty(worker)
        pressure_look(worker)
        if worker.options.slow_turn_ms:
            look_at_turn(worker)
        news_tell(worker)
        free_closed(worker)
