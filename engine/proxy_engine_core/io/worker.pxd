# A worker: one thread, one epoll, everything below it. Shared with no other thread
# but through its mailbox (in), its two rings (out), relaxed counters and the few totals
# of its crew.
#
# A turn:
#   epoll_wait -> events -> mailbox -> ready list -> timers -> flush dirty
#   connections (one send per link) -> wake Python if it has news -> free closed
#
# Connections are edge-triggered and registered once. An event only sets flags and
# calls ops.ready(); whoever stops early (budget, window, backpressure) leaves the
# flags set and comes back through the ready list or a wait list. Closed connections
# are freed at the end of the turn, and a stale event finds a newer generation.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport Buffer, BufferPool
from proxy_engine_core.counters cimport COUNTER_COUNT
from proxy_engine_core.io.mailbox cimport Mailbox, MailboxNode
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.sys cimport clockid_t, epoll_event, iovec, pthread_t
from proxy_engine_core.io.timer cimport Timer, TimerWheel
from proxy_engine_core.io.tls_openssl cimport TLS_ERROR_SIZE, TlsContext, TlsSession
from proxy_engine_core.networks cimport Networks
from proxy_engine_core.options cimport Options
from proxy_engine_core.spsc cimport SpscRing


cdef enum:
    # Epoll events a turn. A turn is what everybody waits for when thousands of devices connect
    # at once; more of them together made turns of 4 to 18 ms and saved nothing at 512 clients.
    WORKER_EVENTS_MAX = 64
    WORKER_SCRATCH_SIZE = 64 * 1024       # bytes a visitor or target is read into
    WORKER_LINK_READ_SIZE = 260 * 1024    # bytes a link is read into: a turn's 256 KiB, framed
    WORKER_ARENA_SIZE = 128 * 1024        # rewritten heads waiting for their send
    GATHER_MAX = 64                       # spans sent together
    GATHER_COPY_MAX = 2048                # bytes of a span that are copied rather than listed
    CONTROL_RING_SIZE = 256 * 1024
    GENERATION_MASK = 0xFFFFFF
    WORKERS_MAX = 64                      # more threads than that share nothing but cores
    PIPES_KEPT_MAX = 8                    # empty pipes a worker holds on to

cdef enum ConnKind:
    CONN_LISTENER = 0
    CONN_VISITOR                          # server: a visitor, or a device asking for a link
    CONN_LINK                             # both: an established link
    CONN_DIAL                             # agent: a link being dialled
    CONN_TARGET                           # agent: a connection to a target
    CONN_DATA                             # both: a direct data connection
    CONN_DIRECT_TARGET                    # agent: the target behind one
    CONN_HANDSHAKE                        # any but a listener, until its TLS stands
    CONN_UDP_LISTENER                     # server: the port of a UDP tunnel
    CONN_UDP_TARGET                       # agent: a UDP visitor's socket towards the target
    CONN_PARTING                          # to be reset once all that was said has arrived
    CONN_PACER                            # server: a timer only, forward/pace.pxd
    CONN_KIND_COUNT

cdef enum ConnFlag:
    CONN_READABLE = 1                     # recv may have something
    CONN_WRITABLE = 2                     # send may take something
    CONN_HUP = 4                          # the peer finished writing or is gone: read on to 0
    CONN_BROKEN = 8                       # gone both ways (error, hang-up, failed send)
    CONN_QUEUED = 16                      # in the ready list
    CONN_DIRTY = 32                       # in the dirty list
    CONN_CLOSED = 64
    CONN_FINISHED = 128                   # we shut down our writing side
    CONN_NEW = 256                        # accepted, not heard of yet
    CONN_TOLD = 512                       # a send has failed, and has used up what recv would say

cdef struct WaitList:                     # first come, first served
    Conn *first
    Conn *last

cdef enum TlsState:
    TLS_HANDSHAKE = 0
    TLS_OPEN
    TLS_FAILED

cdef struct Tls:                          # of a connection: tls.pxd, handshake.pxd
    TlsSession session                    # must be first
    Conn *conn
    Buffer out                            # ciphertext the socket did not take yet
    uint64_t deadline_ms                  # that holds after the handshake; 0: none
    uint32_t lingered                     # bytes read off after a failure
    uint8_t state
    uint8_t kind                          # ConnKind after the handshake
    bint is_spoken                        # server: the first byte is there, and of TLS
    bint has_ended                        # the socket's end of file was read
    bint is_finishing                     # FIN as soon as `out` is empty
    bint is_aborted                       # no close_notify: what was said is not complete
    char error[TLS_ERROR_SIZE]            # why it has failed

cdef struct Conn:
    Worker *worker
    Conn *next_ready
    Conn *next_dirty
    Conn *next_closed
    WaitList *wait_list                   # another connection's, that this one is in
    Conn *wait_next
    Conn *wait_previous
    Timer timer
    Buffer out                            # what the socket did not take yet
    Tls *tls                              # NULL: none
    int fd
    uint32_t slot
    uint32_t generation
    uint16_t flags
    uint8_t kind

cdef struct ConnOps:
    void (*ready)(Conn *conn) noexcept nogil       # flags changed, or requeued
    void (*timeout)(Conn *conn) noexcept nogil
    void (*flush)(Conn *conn) noexcept nogil       # end of turn, if dirty
    void (*sent)(Conn *conn) noexcept nogil        # gathered or queued output moved
    void (*release)(Conn *conn) noexcept nogil     # end of turn after conn_close: free it

cdef struct Gather:
    Conn *conn
    uint32_t count
    uint32_t arena_used
    iovec spans[GATHER_MAX]

cdef struct Pipe:
    int source                            # where it is read
    int target                            # ... and written
    uint32_t size                         # bytes it may hold; 0: there is none

cdef struct PipePool:                     # of splice(): see relay.pxd
    Pipe kept[PIPES_KEPT_MAX]
    uint32_t count
    uint32_t deep                         # ways whose targets hold all they can
    uint64_t retry_ms                     # there was none to be had: not before this

cdef struct EventRecord:                  # in the control ring, followed by its two byte strings
    uint32_t kind
    uint32_t first_size
    uint32_t second_size
    uint32_t reserved
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d
    uint64_t e

cdef struct EventOverflow:                # control events that found the ring full
    EventOverflow *next
    uint32_t size                         # followed by the record

cdef struct Crew:                         # what the workers of an engine share: see crew.pxd
    Worker *workers[WORKERS_MAX]          # set before the first thread starts
    uint32_t worker_count
    int is_drained                        # atomic: EVENT_DRAINED went out
    uint64_t unsettled                    # atomic
    uint64_t links[WORKERS_MAX]           # atomic
    uint64_t udp_visitors                 # atomic
    Networks trusted                      # proxies whose X-Forwarded-* are believed
    uint16_t https_port                   # where plain requests are sent to; 0: they are served

cdef struct Worker:
    Crew *crew
    uint32_t index
    int epoll_fd
    int python_fd                         # the engine's eventfd; shared, not owned
    bint is_stopping
    bint is_draining
    bint is_settled                       # draining, and nothing here is in flight
    uint64_t now_ms                       # monotonic, read once a turn
    uint64_t now_us
    uint64_t busy_since_us                # when the turn under way began; 0: asleep. Relaxed
    uint64_t drain_deadline_ms
    const Options *options
    void *role                            # ServerWorker or AgentWorker
    # True: the role keeps the message and frees it.
    bint (*on_message)(Worker *worker, MailboxNode *message) noexcept nogil
    # `port` and `tls`: the listener's.
    void (*on_accept)(
        Worker *worker, int fd, Address *peer, uint16_t port, TlsContext *tls
    ) noexcept nogil
    void (*on_turn)(Worker *worker) noexcept nogil     # after the ready list; may be NULL
    void (*on_pressure)(Worker *worker) noexcept nogil  # the level changed; may be NULL
    int pressure                          # PressureLevel of memory
    uint64_t memory_max                   # bytes of pool.bytes_lent
    int files_mark                        # fd numbers from here on are left to others
    bint files_near                       # ... and the last one seen was not far from it
    bint files_short                      # accepting waits for that
    ConnOps ops[CONN_KIND_COUNT]
    Conn **conns                          # by slot
    uint32_t *generations
    uint32_t *free_slots
    uint32_t slot_count
    uint32_t free_count
    uint64_t conn_count                   # relaxed, as the counters
    Conn *ready_first
    Conn *ready_last
    Conn *new_first                       # those with CONN_NEW and something to read: a line
    Conn *new_last                        # of their own, so that nobody waits behind them
    Conn *dirty_first
    Conn *closed_first
    Gather gather
    TimerWheel wheel
    BufferPool pool
    PipePool pipes
    uint8_t padding_before[64]            # others write the mailbox: a cache line of its own
    Mailbox mailbox
    uint8_t padding_behind[64]
    SpscRing control_ring
    SpscRing log_ring
    EventOverflow *overflow_first
    EventOverflow *overflow_last
    bint control_news                     # Python must be woken at the end of this turn
    uint64_t log_news_since_us            # 0: Python knows of everything in the log ring
    uint64_t log_news_bytes
    uint32_t log_wake_us                  # how long records may wait now: see news.pxd
    uint64_t handshake_turn               # of handshake_steps
    uint32_t handshake_steps
    uint32_t handshakes                   # of accepted connections, under way
    uint64_t random_state
    uint64_t counters[COUNTER_COUNT]
    pthread_t thread
    uint64_t thread_id                    # the kernel's; 0: none. Relaxed
    bint has_thread
    bint has_cpu_clock
    clockid_t cpu_clock                   # of the thread
    uint8_t *scratch
    uint8_t *link_scratch
    uint8_t *arena
    epoll_event events[WORKER_EVENTS_MAX]

cdef Worker *worker_new(
    Crew *crew, uint32_t index, int python_fd, const Options *options
) noexcept nogil
# Close and release all connections; the thread must have been joined. Their roles' structs
# must still be there, so this comes before the role's free and that before worker_free.
cdef void worker_close_conns(Worker *worker) noexcept nogil
# What only its thread needed; what it has to tell and what it counted stays. Idempotent.
cdef void worker_close_fds(Worker *worker) noexcept nogil
cdef void worker_free(Worker *worker) noexcept nogil
cdef int worker_start(Worker *worker) noexcept nogil          # 0, -errno
# From another thread: ask, then join. All are asked before the first is joined.
cdef void worker_ask_to_stop(Worker *worker) noexcept nogil
cdef void worker_join(Worker *worker) noexcept nogil
cdef void worker_run(Worker *worker) noexcept nogil
# CPU time of its thread, microseconds; 0: there is none. From any thread, also after the join.
cdef uint64_t worker_cpu_us(const Worker *worker) noexcept nogil
cdef uint64_t worker_random(Worker *worker) noexcept nogil    # not for secrets

cdef inline uint32_t handle_worker(uint64_t handle) noexcept nogil:
    return <uint32_t>(handle >> 56)

cdef inline uint64_t conn_handle(const Conn *conn) noexcept nogil:
    # worker 8 | generation 24 | slot 32: what other threads may hold.
    return (
        (<uint64_t>conn.worker.index << 56) | (<uint64_t>conn.generation << 32) | conn.slot
    )

cdef inline Conn *worker_conn(Worker *worker, uint64_t handle) noexcept nogil:
    # The live connection of a handle; NULL: gone.
    cdef uint32_t slot = <uint32_t>handle
    cdef uint32_t generation = <uint32_t>(handle >> 32) & GENERATION_MASK
    if handle_worker(handle) != worker.index or slot >= worker.slot_count:
        return NULL
    if worker.conns[slot] == NULL or worker.conns[slot].generation != generation:
        return NULL
    return worker.conns[slot]
