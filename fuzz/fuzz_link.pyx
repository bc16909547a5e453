# A whole worker against what a hostile peer sends over its link: the control stream's records,
# streams, answers to requests, WebSocket frames around it all. One worker of each role lives for
# the whole run and turns on this thread; socket pairs are its connections.
#
# Input: one byte of choices, then what the peer sends:
#     bit 0  the WebSocket carrier; the input is wrapped in one message ...
#     bit 1  ... unless this is set: then it is what follows the handshake, as it is
#     bit 2  a stock peer: no preamble, no control stream
#     bit 3  server: two visitors wait for an answer, one of them for an upgrade
#     bit 4  ... and only one stream is allowed, so one of them waits for it
#     bit 5  the input arrives in two pieces
#     bit 6  the visitors leave before the input comes
#     bit 7  the worker is an agent's; its one target says hello and listens
#
# The server's streams have the ids 2 and 4, so inputs can answer on them.
#
# Permitted: the link comes up once and goes down once, in few turns, every request is answered
# or aborted, and then no connection, timer, target or lent buffer is left.

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strlen
from posix.unistd cimport close, getpid, read, write

from input cimport REQUIRE
from proxy_engine_core.agent.role cimport agent_init, agent_of
from proxy_engine_core.buffer cimport buffer_init, buffer_pool_free
from proxy_engine_core.counters cimport (
    COUNT_REQUESTS, COUNT_REQUESTS_ABORTED, COUNT_RESPONSES, COUNT_RESPONSES_LOCAL,
)
from proxy_engine_core.events cimport EVENT_CONTROL, EVENT_LINK_DOWN, EVENT_LINK_UP
from proxy_engine_core.forward.route cimport Route, route_new, route_table_set
from proxy_engine_core.forward.route_stats cimport (
    RouteStatsBlock, route_stats_hold, route_stats_new,
)
from proxy_engine_core.forward.server cimport server_init
from proxy_engine_core.forward.transaction cimport server_of
from proxy_engine_core.io.conn cimport conn_attach
from proxy_engine_core.io.crew cimport crew_add_link, crew_init
from proxy_engine_core.io.mailbox cimport MailboxNode, mailbox_post
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.worker cimport (
    CONN_VISITOR, Conn, Crew, EventRecord, Worker, conn_handle, worker_new, worker_run,
)
from proxy_engine_core.link.establish cimport LinkSetup, link_establish
from proxy_engine_core.link.link cimport CARRIER_RAW, CARRIER_WEBSOCKET
from proxy_engine_core.messages cimport TargetEntry
from proxy_engine_core.options cimport Options, options_read
from proxy_engine_core.spsc cimport spsc_peek, spsc_pop
from proxy_engine_core.websocket.frame cimport (
    WS_BINARY, WS_HEADER_SIZE_MAX, ws_header_encode, ws_mask,
)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    int socketpair(int domain, int kind, int protocol, int *fds)
    int socket(int domain, int kind, int protocol)
    int bind(int fd, const sockaddr *address, socklen_t size)
    int listen(int fd, int backlog)
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int shutdown(int fd, int how)
    int AF_UNIX
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SHUT_WR

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef enum:
    PEERS_MAX = 8                         # connections the agent's target takes
    QUIET_TURNS = 3                       # enough for a request to be on its stream
    TURNS_MAX = 200
    NOTHING = 0xFFFF                      # a message no role knows: it only wakes
    INPUT_MAX = 32 * 1024                 # bytes; a socket pair takes them without waiting

cdef struct Play:                         # of one input
    int link_fd                           # the peer's end
    int[2] visitor_fds                    # the visitors'; -1: none, or left
    int[PEERS_MAX] peer_fds               # the target's
    int peer_count
    uint8_t *wire
    size_t wire_size
    size_t sent
    size_t half
    uint32_t turn
    uint8_t choice

cdef Options options
cdef Crew server_crew
cdef Crew agent_crew
cdef Worker *server
cdef RouteStatsBlock *counts
cdef Worker *agent
cdef int target_fd = -1
cdef Play play
cdef void (*server_turn)(Worker *worker) noexcept nogil
cdef void (*agent_turn)(Worker *worker) noexcept nogil
cdef const char *PLAIN = "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n"
cdef const char *UPGRADE = (
    "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
)


cdef void set_up():
    """Once, at import."""
    global server, agent, counts, server_turn, agent_turn, target_fd
    cdef TargetEntry *entry
    cdef sockaddr_un *place
    options_read(&options, {})
    options.log_ring_size = 65536
    options.memory_max = 1 << 30          # what core makes of 0 is the machine's
    crew_init(&server_crew, 1)
    crew_init(&agent_crew, 1)
    server = worker_new(&server_crew, 0, -1, &options)
    counts = route_stats_new(1, 1)
    agent = worker_new(&agent_crew, 0, -1, &options)
    if server == NULL or agent == NULL or server_init(server) < 0 or agent_init(agent) < 0:
        raise MemoryError
    server_turn = server.on_turn
    agent_turn = agent.on_turn
    server.on_turn = on_turn
    agent.on_turn = on_turn
    # An agent has no visitors: what takes their place only waits to become a link.
    agent.on_accept = accept_plain
    agent.ops[<int>CONN_VISITOR].release = release_plain
    entry = <TargetEntry *>calloc(1, sizeof(TargetEntry))
    entry.name_size = 3
    memcpy(entry.name, b"web", 3)
    # An abstract name; unlike ports they do not run out.
    name = f"proxy-engine-fuzz-{getpid()}".encode()
    place = <sockaddr_un *>&entry.address.storage
    place.sun_family = AF_UNIX
    memcpy(&place.sun_path[1], <const char *>name, len(name))
    entry.address.size = 3 + len(name)
    target_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if bind(target_fd, <const sockaddr *>place, entry.address.size) < 0:
        raise OSError(errno, "bind")
    listen(target_fd, 100)
    agent_of(agent).targets = entry
    agent_of(agent).target_count = 1


cdef void accept_plain(
    Worker *worker, int fd, Address *peer, uint16_t port, TlsContext *tls
) noexcept nogil:
    cdef Conn *conn = <Conn *>calloc(1, sizeof(Conn))
    buffer_init(&conn.out, &worker.pool, 0)
    REQUIRE(conn_attach(worker, conn, fd, CONN_VISITOR) == 0)


cdef void release_plain(Conn *conn) noexcept nogil:
    free(conn)


cdef void drop(int *fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
    fd[0] = -1


cdef Conn *accepted(Worker *worker, int *far_end) noexcept nogil:
    """A connection of the worker's by which `far_end` speaks to it."""
    cdef int[2] fds
    cdef Address address
    cdef uint32_t slot
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0)
    far_end[0] = fds[1]
    memset(&address, 0, sizeof(Address))
    worker.on_accept(worker, fds[0], &address, 0, NULL)
    for slot in range(worker.slot_count):
        if worker.conns[slot] != NULL and worker.conns[slot].fd == fds[0]:
            return worker.conns[slot]
    return NULL


cdef void send(int fd, const uint8_t *bytes, size_t size) noexcept nogil:
    REQUIRE(write(fd, bytes, size) == <ssize_t>size or errno != EAGAIN)


cdef void answer_targets() noexcept nogil:
    cdef int fd = accept4(target_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    cdef uint8_t[4096] input
    cdef int index
    while fd >= 0:
        send(fd, b"hello", 5)
        if play.peer_count == PEERS_MAX:
            close(fd)
        else:
            play.peer_fds[play.peer_count] = fd
            play.peer_count += 1
        fd = accept4(target_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    for index in range(play.peer_count):
        if play.peer_fds[index] >= 0 and read(play.peer_fds[index], input, sizeof(input)) == 0:
            drop(&play.peer_fds[index])


cdef void drain(int fd) noexcept nogil:
    cdef uint8_t[16384] input
    while fd >= 0 and read(fd, input, sizeof(input)) > 0:
        pass


cdef void on_turn(Worker *worker) noexcept nogil:
    """Play the others' parts, a step a turn."""
    cdef MailboxNode *node
    cdef size_t end
    if worker == server:
        server_turn(worker)
    else:
        agent_turn(worker)
        answer_targets()
    play.turn += 1
    REQUIRE(play.turn < TURNS_MAX)
    drain(play.link_fd)
    drain(play.visitor_fds[0])
    drain(play.visitor_fds[1])
    if play.turn == QUIET_TURNS and play.choice & 64:
        drop(&play.visitor_fds[0])
        drop(&play.visitor_fds[1])
    elif play.turn > QUIET_TURNS and play.sent < play.wire_size:
        end = play.half if play.sent < play.half else play.wire_size
        send(play.link_fd, play.wire + play.sent, end - play.sent)
        play.sent = end
    elif play.turn > QUIET_TURNS and play.sent == play.wire_size:
        play.sent += 1
        shutdown(play.link_fd, SHUT_WR)
    elif play.turn == 4 * QUIET_TURNS:
        drop(&play.visitor_fds[0])
        drop(&play.visitor_fds[1])
    if worker.conn_count == 0:
        worker.is_stopping = True
        return
    # Never sleep: there is always a message.
    node = <MailboxNode *>calloc(1, sizeof(MailboxNode))
    node.kind = NOTHING
    mailbox_post(&worker.mailbox, node)


cdef void link_up(Worker *worker) noexcept nogil:
    cdef LinkSetup setup
    cdef Route *route
    cdef uint64_t handle
    cdef Conn *conn = accepted(worker, &play.link_fd)
    REQUIRE(conn != NULL)
    if worker == server:
        handle = conn_handle(conn)
        route = route_new(1, &handle, 1, b"web", 3, b"host:web.test", 13)
        route.counts = counts
        route_stats_hold(counts)
        route_table_set(&server_of(worker).routes, route)
    memset(&setup, 0, sizeof(setup))
    setup.id = 0 if worker == server else 1
    setup.device = 7
    setup.window = 262144
    setup.streams_max = 1 if play.choice & 16 else 500
    setup.carrier = CARRIER_WEBSOCKET if play.choice & 1 else CARRIER_RAW
    setup.is_client = worker == agent
    setup.has_preamble = not play.choice & 4
    crew_add_link(worker.crew, 0)
    REQUIRE(link_establish(conn, &setup, b"fuzz", NULL, 0, NULL, 0) != NULL)


cdef void wrap(Worker *worker, const uint8_t *data, size_t size) noexcept nogil:
    """What the peer will send."""
    cdef uint8_t[4] key = [1, 2, 3, 4]
    cdef size_t header = 0
    play.wire = <uint8_t *>malloc(size + WS_HEADER_SIZE_MAX)
    if play.choice & 3 == 1:
        header = <size_t>ws_header_encode(
            play.wire, WS_BINARY, True, size, key if worker == server else NULL
        )
    if size:
        memcpy(play.wire + header, data, size)
    if header and worker == server:
        ws_mask(play.wire + header, size, key, 0)
    play.wire_size = header + size
    play.half = play.wire_size // 2 if play.choice & 32 else play.wire_size


cdef void check_rings(Worker *worker) noexcept nogil:
    cdef EventRecord record
    cdef const uint8_t *place
    cdef uint32_t size
    cdef uint32_t ups = 0
    cdef uint32_t downs = 0
    while True:
        place = spsc_peek(&worker.control_ring, &size)
        if place == NULL:
            break
        memcpy(&record, place, sizeof(record))
        ups += record.kind == EVENT_LINK_UP
        downs += record.kind == EVENT_LINK_DOWN
        REQUIRE(record.kind in (EVENT_LINK_UP, EVENT_LINK_DOWN, EVENT_CONTROL))
        spsc_pop(&worker.control_ring, size)
    REQUIRE(ups == 1 and downs == 1)
    REQUIRE(worker.overflow_first == NULL)
    while spsc_peek(&worker.log_ring, &size) != NULL:
        spsc_pop(&worker.log_ring, size)


cdef void check_left(Worker *worker) noexcept nogil:
    if worker.pool.bytes_lent:
        fprintf(stderr, "%lu bytes are still lent\n", worker.pool.bytes_lent)
    REQUIRE(worker.conn_count == 0 and worker.pool.bytes_lent == 0)
    REQUIRE(worker.crew.links[0] == 0)
    buffer_pool_free(&worker.pool)        # so that nobody may still use what it held
    if worker == agent:
        REQUIRE(agent_of(agent).open_targets == 0)
        return
    REQUIRE(server_of(server).active == 0)
    REQUIRE(
        worker.counters[<int>COUNT_REQUESTS] == worker.counters[<int>COUNT_RESPONSES]
        + worker.counters[<int>COUNT_RESPONSES_LOCAL]
        + worker.counters[<int>COUNT_REQUESTS_ABORTED]
    )


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef Worker *worker
    cdef int index
    if size < 1 or size > INPUT_MAX:
        return 0
    memset(&play, 0, sizeof(play))
    play.choice = data[0]
    play.visitor_fds[0] = -1
    play.visitor_fds[1] = -1
    worker = agent if play.choice & 128 else server
    link_up(worker)
    wrap(worker, data + 1, size - 1)
    if worker == server and play.choice & 8:
        REQUIRE(accepted(worker, &play.visitor_fds[0]) != NULL)
        REQUIRE(accepted(worker, &play.visitor_fds[1]) != NULL)
        send(play.visitor_fds[0], <const uint8_t *>PLAIN, strlen(PLAIN))
        send(play.visitor_fds[1], <const uint8_t *>UPGRADE, strlen(UPGRADE))
    worker.is_stopping = False
    worker_run(worker)
    drop(&play.link_fd)
    drop(&play.visitor_fds[0])
    drop(&play.visitor_fds[1])
    for index in range(play.peer_count):
        drop(&play.peer_fds[index])
    free(play.wire)
    check_rings(worker)
    check_left(worker)
    return 0


set_up()
