"""The engine's only Python face. Threads: every method may be called from any thread
that holds the GIL; the engine's own workers never take it."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, TypedDict

from proxy_engine_core.inspector import Inspector

# Kinds of control events, the first item of each tuple from Engine.poll().
EVENT_AUTH: Final = 1
EVENT_LINK_UP: Final = 2
EVENT_LINK_DOWN: Final = 3
EVENT_CONTROL: Final = 4
EVENT_DIAL_FAILED: Final = 5
EVENT_TARGET_FAILED: Final = 6
EVENT_DRAINED: Final = 7
EVENT_PRESSURE: Final = 8
EVENT_LINK_SPENT: Final = 9
EVENT_LINK_LOAD: Final = 10
EVENT_REQUESTS_OPEN: Final = 11
EVENT_SLOW_TURN: Final = 12
EVENT_DUMP: Final = 13

CONTROL_RECORD_SIZE_MAX: Final = 65536
WORKERS_MAX: Final = 64

# (EVENT_AUTH, ticket, peer "ip:port", request head bytes, certificate names): a device asks for
#   a link (/_proxy/link), or a client for a private tunnel (/_proxy/tcp/...).
#   Answer with auth_reply(ticket, ...) within 10 s or the engine answers 503.
#   The names are those of the client certificate, verified by the listener's client_ca:
#   "cn:device-1", "dns:device-1.example.com", "uri:spiffe://example.com/device-1"; () without one.
# (EVENT_LINK_UP, link, device, peer, head): server: head is b""; agent: the 101 response head.
# (EVENT_LINK_DOWN, link, device, reason, bytes in, bytes out, seconds up)
# (EVENT_CONTROL, link, record): one whole control record from stream 1.
# (EVENT_DIAL_FAILED, dial, reason, errno, status, head, body): agent. reason is one of
#   "connect", "timeout", "closed", "bad_response", "tls" (body: why, in one line) or "refused" (an
#   HTTP answer other than 101: status, its head and up to 4 KiB of its body).
# (EVENT_TARGET_FAILED, tunnel, errno, text): agent could not connect a target. With EPROTO it
#   was TLS that failed, and text says why in one line; else it is "".
# (EVENT_DRAINED,): nothing is in flight any more, or the grace time is over.
# (EVENT_PRESSURE, level, used, most, what): once for each change in a worker. what is "memory"
#   (bytes of buffers, of memory_max) or "files" (the worker's connections, and the number of
#   file descriptors that may be in use); level 0 none, 1 windows grow no more, 2 no new
#   requests, 3 no new connections.
# (EVENT_LINK_SPENT, link): server. link_streams_max streams were opened: replace it.
# (EVENT_LINK_LOAD, link, share): server. It carried this part, in thousandths, of the bytes of
#   its worker's links between two calls of link_loads().
# (EVENT_REQUESTS_OPEN, query, batch, is last): server. What is under way on a worker, packed for
#   proxy_engine_core.log_batch; several of each worker, of which one is its last.
# (EVENT_SLOW_TURN, worker, microseconds, when it began): one turn took slow_turn_ms or longer. It
#   began at so many microseconds of CLOCK_MONOTONIC.
# (EVENT_DUMP, query, worker, rows, is last): server. What Inspector.dump() asked for, packed for
#   inspector.dump_rows(); several of each worker, of which one is its last.
AuthEvent: TypeAlias = tuple[Literal[1], int, str, bytes, tuple[str, ...]]
LinkUpEvent: TypeAlias = tuple[Literal[2], int, int, str, bytes]
LinkDownEvent: TypeAlias = tuple[Literal[3], int, int, str, int, int, float]
ControlEvent: TypeAlias = tuple[Literal[4], int, bytes]
DialFailedEvent: TypeAlias = tuple[Literal[5], int, str, int, int, bytes, bytes]
TargetFailedEvent: TypeAlias = tuple[Literal[6], str, int, str]
DrainedEvent: TypeAlias = tuple[Literal[7]]
PressureEvent: TypeAlias = tuple[Literal[8], int, int, int, str]
LinkSpentEvent: TypeAlias = tuple[Literal[9], int]
LinkLoadEvent: TypeAlias = tuple[Literal[10], int, int]
RequestsOpenEvent: TypeAlias = tuple[Literal[11], int, bytes, bool]
SlowTurnEvent: TypeAlias = tuple[Literal[12], int, int, int]
DumpEvent: TypeAlias = tuple[Literal[13], int, int, bytes, bool]
Event: TypeAlias = (
    AuthEvent | LinkUpEvent | LinkDownEvent | ControlEvent | DialFailedEvent
    | TargetFailedEvent | DrainedEvent | PressureEvent | LinkSpentEvent | LinkLoadEvent
    | RequestsOpenEvent | SlowTurnEvent | DumpEvent
)

class LogRecord(NamedTuple):
    """One finished visitor request."""

    time_us: int            # wall clock at the end, microseconds since the epoch
    route: int              # id given to routes_apply; 0: no route was found
    device: int             # id given to auth_reply; 0: none
    request_id: str
    visitor: str            # address without port
    method: str
    host: str
    path: str               # path and query, at most 1024 bytes
    status: int             # what the visitor saw; 0: nothing was sent
    reason: str             # "" or why the proxy answered or aborted: see docs/errors.md
    flags: int              # LOG_* bits
    bytes_in: int           # body and head bytes from the visitor
    bytes_out: int          # ... to the visitor
    total_us: int           # first byte of the request to last byte of the response
    first_byte_us: int      # ... to the first byte of the response head; 0: none
    target_us: int          # ... of which it was the target's; 0: none
    link_us: int = 0        # ... and the link's: its round trip. The rest was the proxy's. 0: not
#                             known, so that it is in target_us
    trace_id: str = ""      # of the traceparent that the visitor sent or the target got: 32 digits
    parent_id: str = ""     # ... the span that the visitor named: 16 digits
    span_id: str = ""       # ... ours, that the target was told of; "": the target got the parent's
    trace_flags: int = 0    # ... 1: sampled

    @property
    def proxy_us(self) -> int:
        """... and the proxy's: until the request was on its way to the device."""

LOG_REUSED: Final = 1       # went over a pooled stream
LOG_RETRIED: Final = 2
LOG_ABORTED: Final = 4      # the response did not end cleanly
LOG_TUNNEL: Final = 8       # became a byte tunnel (Upgrade)
LOG_LOCAL: Final = 16       # answered by the proxy itself
LOG_TCP: Final = 32         # a connection to a TCP tunnel: method "TCP", host ":PORT" or its name;
#   first_byte_us and target_us to the target's accepting it, status 0
LOG_UDP: Final = 128        # a visitor of a UDP tunnel, from its first datagram to its last: method
#   "UDP", host ":PORT", bytes of payload; the times as of TCP
LOG_OPEN: Final = 64        # not finished: in a list of what is under way
LOG_HTTP10: Final = 256     # the visitor spoke HTTP/1.0, not 1.1

# Flags of a target.
TARGET_TCP: Final = 1           # of a TCP tunnel: what ends by a reset is reset
TARGET_UDP: Final = 4           # of a UDP tunnel
TARGET_PROXY_HEADER: Final = 2  # a connection begins with a PROXY protocol v2 header

class BasicAuth(TypedDict):
    realm: str                  # printable ASCII without " and \, 1 to 128 bytes
    salt: bytes                 # 1 to 64
    digests: Sequence[bytes]    # SHA-256(salt + b64encode(b"user:password")), at most 64: who may
#   come. The name and the password are UTF-8.

class Maintenance(TypedDict, total=False):
    retry_after: int            # seconds, 1 to 604800; 300
    kind: Literal["html", "json", "text"]       # of the body; "html"
    body: bytes                 # at most 32 KiB; none: an answer as docs/errors.md shows it

# "set": instead of all fields of this name; "add": beside them.
HeaderRule: TypeAlias = (
    tuple[Literal["set", "add"], str, str] | tuple[Literal["remove"], str]
)

class RoutePolicy(TypedDict, total=False):
    """What a tunnel does with its visitors: from the next request on, and at once with open
    connections of TCP tunnels and WebSockets whose visitor may come no more.

    Looked at in this order; "tcp:" routes take the first three alone. The visitor's address is
    the one in the log: behind trusted proxies it is whom they speak for.
    Raises: ValueError, by routes_apply(), for what is unknown, malformed or too much.
    """

    disabled: bool                              # 404 tunnel_disabled
    deny: Sequence[str]                         # 403 address_denied: networks or addresses; deny
    allow: Sequence[str]                        # ... wins; no allow: all. 1024 together
    maintenance: Maintenance                    # 503 maintenance
    basic_auth: BasicAuth                       # 401 unauthorized
    server_timing: bool                         # responses tell where the time went
    strip_prefix: str                           # "/api": taken off the path; 404 outside_prefix
    host: str                                   # the Host that the target sees: "app.internal:8080"
    profile: Literal["balanced", "throughput", "latency"]      # of connections from now on
    request_headers: Sequence[HeaderRule]       # at most 64, adding at most 8 KiB to a head;
    response_headers: Sequence[HeaderRule]      # no field that frames, routes, or is ours

# ("set", key, route id, links, tunnel name), and a RoutePolicy or None: links may be () - the
#   device is offline; the first 128 count. A set without a policy takes away what there was.
# ("delete", key). Keys: "host:web.example.com" (lower case, no port), "host:*.example.com" for
# hosts with any other one label in its place, "name:web" for the
# X-Proxy-Tunnel field, "default" for requests that match no other route; "tcp::15432" for what
# comes to the listener of a TCP tunnel, "tcp:db" for who joins one by auth_reply();
# "udp::5353" for what comes to the port of a UDP tunnel.
RouteOp: TypeAlias = (
    tuple[Literal["set"], str, int, Sequence[int], str]
    | tuple[Literal["set"], str, int, Sequence[int], str, RoutePolicy | None]
    | tuple[Literal["delete"], str]
)
# (tunnel name, IP literal, port), TARGET_... flags, if any, and TLS, if it is spoken to the target.
# A socket of this machine, not of UDP tunnels, is "unix:/PATH", or "unix:@NAME" in the abstract
# namespace, with port 0; names are at most 107 bytes.
Target: TypeAlias = (
    tuple[str, str, int] | tuple[str, str, int, int] | tuple[str, str, int, int, TlsClient | None]
)

# The library linked in, "OpenSSL 3.0.19 ..."; "": none, so that every TlsServer and TlsClient
# raises ValueError.
TLS_LIBRARY: Final[str]

# (names, chain, key): the certificate for these names, "www.example.com" or "*.example.com"; ():
# for those the certificate has itself. PEM: the certificate first, then its issuers; a key without
# a passphrase.
TlsIdentity: TypeAlias = tuple[Sequence[str], bytes, bytes]

class TlsServer:
    """What a listener of TLS shows and asks for. It does not change: make another one and give it
    to Engine.tls_apply().

    ALPN is "http/1.1", or nothing. No renegotiation, compression or 0-RTT; session tickets are
    good for the identity they were given by, and without `ticket_keys` for this object.

    Args:
        identities: one or more; the first is also for who asks for no name.
        client_ca: PEM of the authorities whose client certificates count; b"": none is asked for.
        client_crl: PEM of their revocation lists. An issuer without one is not looked up.
        client_required: no connection without a client certificate.
        unknown_name: who asks for a name that nobody has gets the first identity, or is refused.
        ticket_keys: 80 secret random bytes each, at most 8. The first seals tickets, all open
            them, for objects with the same certificate and the same rules for those of clients.
    Raises: ValueError with one line that says what is wrong: a key that does not fit its
        certificate, PEM that can not be read, a key with a passphrase, no TLS in this build ...
    """

    def __init__(
        self,
        identities: Sequence[TlsIdentity],
        *,
        client_ca: bytes = b"",
        client_crl: bytes = b"",
        client_required: bool = False,
        minimum: Literal["1.2", "1.3"] = "1.3",
        unknown_name: Literal["default", "refuse"] = "default",
        ticket_keys: Sequence[bytes] = (),
    ) -> None: ...

class TlsClient:
    """How a server, or a target, is spoken to. Remembers sessions, to be shorter the next time.

    Args:
        server_name: the DNS name or IP literal that its certificate must have; the name is sent.
        ca: PEM of the authorities to trust; b"": the system's, or the pins alone if there are any.
        crl: PEM of their revocation lists. An issuer without one is not looked up.
        pins: SHA-256 of the public keys (SubjectPublicKeyInfo) of which it must have one.
        chain, key: our own certificate, as in TlsIdentity; b"": none.
        insecure: take any certificate. Pins hold all the same.
        alpn: say "http/1.1".
    Raises: ValueError, as TlsServer.
    """

    def __init__(
        self,
        server_name: str,
        *,
        ca: bytes = b"",
        crl: bytes = b"",
        pins: Sequence[bytes] = (),
        chain: bytes = b"",
        key: bytes = b"",
        minimum: Literal["1.2", "1.3"] = "1.3",
        insecure: bool = False,
        alpn: bool = True,
    ) -> None: ...

class TlsCertificate(NamedTuple):
    """The first certificate of a chain."""

    names: tuple[str, ...]  # as those of EVENT_AUTH, and "ip:192.0.2.1"
    not_before: int         # seconds since the epoch
    not_after: int
    pin: bytes              # SHA-256 of its SubjectPublicKeyInfo

def tls_certificate(chain: bytes) -> TlsCertificate:
    """Read PEM. Raises: ValueError with one line."""

class Engine:
    """A data plane: workers, listeners, links. One per process is usual, several work.

    Args:
        role: "server" accepts visitors and links, "agent" dials links and connects targets.
        workers: event-loop threads, 1 to WORKERS_MAX. Each owns its connections; a link lives
            on one worker, and a visitor's connection moves to where its link is.
        options: any of ENGINE_OPTIONS, by name; see DEFAULTS for units and defaults.
    Raises: TypeError for an unknown option, ValueError for one out of range,
        OSError if epoll or eventfd can not be had.
    After stop() only poll(), poll_logs(), poll_log_batch() and stats() still answer; everything
    else raises RuntimeError, and so does at any time what only the other role does.
    """

    def __init__(
        self, role: Literal["server", "agent"], *, workers: int = 1, **options: int
    ) -> None: ...
    @property
    def event_fd(self) -> int: ...
    @property
    def workers(self) -> int: ...
    @property
    def inspector(self) -> Inspector: ...
    def listen(self, host: str, port: int, *, tls: TlsServer | None = None) -> int:
        """Open a public HTTP listener on an IP literal; returns the port bound.

        Every worker accepts from it (SO_REUSEPORT), and nobody outside this engine does. With
        `tls` it speaks nothing else; plain HTTP there is answered 400.
        Before start() only. Raises: OSError (EADDRINUSE, EACCES, ...), ValueError for a
        host that is not an IP literal.
        """

    def tls_apply(self, port: int, tls: TlsServer) -> None:
        """New connections to the TLS listeners on this port use `tls` from now on; those that
        are there go on. Raises: ValueError if there is no such listener."""

    def tcp_listen(self, host: str, port: int) -> int:
        """Open a listener for a TCP tunnel on an IP literal, at any time; returns the port bound.

        Its connections go to the route "tcp::PORT". Port 0: any. As listen(), and it raises the
        same. A port closed a moment ago may still be in use.
        """

    def tcp_close(self, port: int) -> None:
        """Close that listener, soon; its connections go on. A port without one is no error."""

    def udp_listen(self, host: str, port: int) -> int:
        """Open the port of a UDP tunnel on an IP literal, at any time; returns the port bound.

        Its datagrams go to the route "udp::PORT". One worker reads it, where a link of that
        route is; it moves there when routes_apply() says so. Port 0: any. Raises: as listen().
        """

    def udp_close(self, port: int) -> None:
        """Close that port, soon, and end its visitors. A port that is not open is no error."""

    def trust(self, network: str) -> None:
        """Server: believe X-Forwarded-* of proxies in this network ("192.0.2.0/24").

        The visitor of a request is then who they say, in the log and in the limits of
        addresses. Before start() only, at most 64. Raises: ValueError.
        """

    def redirect(self, port: int) -> None:
        """Server: answer what comes in plain with 308 to https on this port; 0: serve it.

        Trusted proxies excepted. Before start() only. Raises: ValueError.
        """

    def start(self) -> None: ...
    def drain(self, grace_ms: int) -> None:
        """Stop accepting, close idle connections, let requests in flight finish.

        Returns at once; EVENT_DRAINED follows.
        """

    def stop(self) -> None:
        """Stop and join the workers (without the GIL) and close everything, event_fd included.
        Idempotent."""

    def poll(self, limit: int = 4096) -> list[Event]: ...
    def poll_logs(self, limit: int = 4096) -> list[LogRecord]: ...
    def poll_log_batch(self, limit: int = 1 << 20) -> bytes:
        """The same records packed for proxy_engine_core.log_batch, for whom a list of tuples is
        too dear: whole records of at most `limit` bytes together, which is at least 4096."""

    def auth_reply(
        self,
        ticket: int,
        response: bytes,
        *,
        accept: bool,
        device: int = 0,
        carrier: Literal["raw", "websocket"] = "raw",
        window: int = 262144,
        streams_max: int = 500,
        preamble: bool = False,
        worker: int = -1,
        tunnel: str = "",
        direct: int = 0,
        quota: int = 0,
        limits: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """Answer EVENT_AUTH with a whole HTTP response: a 101 when accept, else a refusal.

        The link will live on `worker`; -1: on the one with the fewest links. With `tunnel` the
        connection becomes no link: what follows goes to the route "tcp:TUNNEL".
        `direct`: idle direct connections the link may have, at most 64, once it serves a TCP
        tunnel; for a peer that agreed to them, with `preamble`.
        Links of one `quota`, a number of the caller's (0: none), share `limits`, on whichever
        workers they are: connections (of HTTP: requests under way), requests a second, and bytes
        a second both ways together; 0: no limit. A connection to a tunnel ends with joined_close().
        A device that has gone meanwhile is no error.
        """

    def limits_apply(self, quota: int, limits: tuple[int, int, int]) -> None:
        """Server: other limits for the links of a quota, those under way included. One that no
        link has is no error. Raises: ValueError for a limit that is too large."""

    def joined_close(self, quota: int) -> None:
        """Server: end the connections to tunnels that auth_reply() let in by this quota
        ("token_ended"), and those that are just being made."""

    def connections(self, quota: int) -> int:
        """Server: how many connections and requests its links have now; those of links without
        limits are not counted."""

    def routes_apply(self, ops: Sequence[RouteOp]) -> None: ...
    def link_send(self, link: int, record: bytes) -> None:
        """Queue one control record of 1..CONTROL_RECORD_SIZE_MAX bytes; a link that has gone
        meanwhile is no error, EVENT_LINK_DOWN tells of it."""

    def link_drain(self, link: int, *, close: bool = False) -> None:
        """Server: send no new requests over a link and give its idle streams back; with
        `close`, close it ("drained") once those under way are done."""

    def link_flush(self, link: int, route: int) -> None:
        """Server: use no connection to the target of this route that a link has now for another
        request: the target has become another. Those under way finish."""

    def link_close(self, link: int, reason: str = "") -> None:
        """Say goodbye (GoAway, WebSocket close) and close; EVENT_LINK_DOWN follows."""

    def link_loads(self) -> None:
        """Server: ask every worker which of its links carry most: EVENT_LINK_LOAD follows for
        each with a sixteenth or more of the bytes of its worker's links since the last call."""

    def links_look(self) -> int:
        """Server: ask every worker to look at its links; the number of this look, for
        links_seen()."""

    def links_seen(self) -> tuple[int, dict[str, int], tuple[int, ...]]:
        """Server: the number of the last look that every worker has done, what they saw, by the
        names of LINKS_SEEN, and the round trips of pings since the start: microseconds together,
        then how many there were in each bucket of ROUTE_STATS_BOUNDS_US, and longer ones."""

    def requests_open(self, query: int, limit: int = 1000) -> None:
        """Server: ask every worker for its requests and connections to tunnels that are under way,
        at most `limit` of each: EVENT_REQUESTS_OPEN follows with `query`, a number of the
        caller's. Their records have LOG_OPEN, and times and bytes as of now."""

    def link_worker(self, link: int) -> int:
        """The worker a link or dial id belongs to, 0 to workers - 1; it never changes.

        Raises: ValueError for a number that is no link of this engine's.
        """

    def dial(
        self,
        host: str,
        port: int,
        request: bytes,
        *,
        carrier: Literal["raw", "websocket"],
        timeout_ms: int = 10000,
        worker: int = -1,
        fd: int = -1,
        direct: bytes = b"",
        tls: TlsClient | None = None,
    ) -> int:
        """Agent: connect to an IP literal and send `request` (an Upgrade), over TLS with `tls`.
        Returns a dial id.

        The link will live on `worker`; -1: on the one with the fewest links and dials. `fd` is a
        socket that is connected already and does not block: it is used instead of a new one, and
        belongs to the engine when this returns. `direct` is what a request for a direct
        connection begins with, up to the value of its ticket field, at most 2048 bytes; b"": there
        will be none, as there are none with `tls`. They are dialled to the peer of the link.
        EVENT_LINK_UP (its link is the dial id) or EVENT_DIAL_FAILED follows.
        """

    def targets_apply(self, targets: Sequence[Target]) -> None:
        """Agent: replace the table of targets. Raises: ValueError."""

    def stats(self) -> dict[str, int]:
        """Counters and gauges by name, summed over the workers. cpu_us is the CPU time of their
        threads in microseconds; 0 before start() and after stop()."""

    def route_stats(self) -> bytes:
        """Server: what the visitors of each route id did since it was first given to
        routes_apply(), summed over the workers: records of ROUTE_STATS, unsigned 64-bit integers
        in native order. The first one, with the id 0, is of requests that found no route.

        Bytes and connections count while they pass, the rest at the end of a request. Routes
        that were deleted stay for a while, until there are 1024 or more of them and nothing of
        theirs is under way.
        """

    def worker_stats(self, worker: int) -> dict[str, int]:
        """The same of one worker. Raises: ValueError for a worker there is not."""

DEFAULTS: Final[dict[str, int]]

# What Engine.links_seen() tells: streams open, requests that wait for one, bytes that wait to be
# sent to devices, the longest round trip (microseconds), and of windows: bytes lent beyond what was
# agreed, how often one grew, bytes of credit taken back when memory was short.
LINKS_SEEN: Final[tuple[str, ...]]

# The fields of a record of Engine.route_stats():
#   route           its id
#   open            requests and connections under way
#   connections     to tunnels, that got to the device: TCP, visitors of UDP, after a 101
#   bytes_in, bytes_out     from and to visitors
#   refused, failed         answered by the proxy itself, below 500 and from 500 on
#   aborted         what did not end as it should: TCP and UDP that were refused as well
#   ended_none, ended_1xx ... ended_5xx     by the status the visitor saw; none: TCP, UDP, aborts
#   duration_us     of those in the buckets together
#   duration_0 ...  requests that took at most ROUTE_STATS_BOUNDS_US[0] microseconds ..., each in
#                   one bucket; the last: more. Connections to tunnels are in none
ROUTE_STATS: Final[tuple[str, ...]]
ROUTE_STATS_BOUNDS_US: Final[tuple[int, ...]]

def parse_request_head(head: bytes) -> tuple[str, str, list[tuple[str, bytes]]]:
    """Method, target and fields (lower-case names) by the engine's own strict parser.

    Raises: ValueError with the reason for a head it would refuse.
    """

def check_policy(policy: RoutePolicy, *, is_tcp: bool = False) -> None:
    """What routes_apply() does with a policy before it applies it.

    Args:
        is_tcp: of a "tcp:" or "udp:" route.
    Raises: ValueError for a policy it would refuse.
    """
