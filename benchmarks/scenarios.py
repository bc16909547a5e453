"""Every scenario of the load benchmark, in one table; `scripts/bench load --list` prints it.

A scenario is a load on subjects that take turns before one origin, or a program of
benchmarks/load that brings its own. Each runs alone: `scripts/bench load --only NAME`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.loads import (
    BesideSlowReaders,
    Http,
    IdleVisitors,
    Iperf,
    Load,
    PingPong,
    ServerSentEvents,
    SystemCalls,
    WebSocket,
)
from benchmarks.load.stage import OURS

KIB, MB = 1 << 10, 1_000_000
CHAIN, RELAYS, SPLICE = "nginx-chain", "relay-chain", "relay-splice"

# References of the same run: the client at the origin, one hop, two hops, and what bounds them.
WEB = (
    "direct",
    "nginx",
    CHAIN,
    "haproxy",
    "haproxy-chain",
    RELAYS,
    OURS,
    f"{OURS}-ws",
    "against",
    "floor",
)
FEW = ("direct", CHAIN, RELAYS, OURS, "against", "floor")
TUNNELS = (f"{OURS}-direct", f"{OURS}-link", f"{OURS}-link-ws", RELAYS, SPLICE, "against")
PEERS = ("rathole", "rathole-w1", "bore", "bore-w1", "chisel", "wstunnel", "frp", "piko")


@dataclass(frozen=True)
class Scenario:
    """One load on several subjects, in turns."""

    name: str
    what: str
    field: str  # which origin, and what stands before it: Stage
    load: Load
    subjects: tuple[str, ...]
    reference: str  # whose cost ours is divided by, round by round
    needs: tuple[str, ...] = ("wrk", "nginx")
    in_quick: bool = False
    seconds: float = 1.0  # share of what the options say a sample takes

    @property
    def unit(self) -> str:
        return self.load.unit


@dataclass(frozen=True)
class Program:
    """A program that measures by itself and writes samples where --json says."""

    name: str
    what: str
    command: tuple[str, ...]  # a file of benchmarks/load, and arguments
    quick: tuple[str, ...] | None = None  # arguments for a short run; None: not in it
    needs: tuple[str, ...] = ()
    reference: str = ""
    unit: str = ""
    seconds: tuple[float, float] = (10.0, 60.0)  # that it takes here, short and long
    timeout: float = 600.0

    @property
    def in_quick(self) -> bool:
        return self.quick is not None


def http(
    name: str, what: str, load: Load, subjects: Sequence[str] = FEW, *, in_quick: bool = False,
    field: str = "http", seconds: float = 1.0,
) -> Scenario:  # fmt: skip
    return Scenario(
        name, what, field, load, tuple(subjects), CHAIN, in_quick=in_quick, seconds=seconds
    )


KEEP_ALIVE = tuple(
    http(
        f"http-{label}-c{clients}",
        f"{clients} kept-alive connections, responses of {label}",
        Http(clients, size),
        WEB if size == KIB and clients == 64 else FEW,
        in_quick=size == KIB or (clients == 64 and size < MB),
    )
    for label, size in (("1k", KIB), ("64k", 64 * KIB), ("10m", 10 * MB))
    for clients in ((1, 8, 64, 512) if size == KIB else (1, 64, 512))
)
NEW_CONNECTIONS = tuple(
    http(
        f"http-new-c{clients}" if size == KIB else f"http-new-{label}-c{clients}",
        f"{clients} clients, a new connection for every request, responses of {label}",
        Http(clients, size, is_closing=True),
        in_quick=size == KIB and clients == 64,
    )
    for label, size in (("1k", KIB), ("64k", 64 * KIB), ("10m", 10 * MB))
    for clients in (1, 64, 512)
)
UPLOADS = tuple(
    http(
        f"upload-{label}-c{clients}",
        f"{clients} clients that post {label}",
        Http(clients, upload=size),
        in_quick=label == "64k",
        field="upload",
    )
    for label, size, clients in (("64k", 64 * KIB, 64), ("10m", 10 * MB, 1), ("10m", 10 * MB, 8))
)
CONNECTIONS = tuple(
    http(f"http-1k-c{clients}", f"{clients:,} kept-alive connections, responses of 1k",
         Http(clients), (CHAIN, OURS), field="many", seconds=2.0, in_quick=clients == 8000)
    for clients in (2048, 8000)
)  # fmt: skip
TLS = (
    http("tls-c64", "64 kept-alive visitors over TLS 1.3, responses of 1 KiB", Http(64),
         ("nginx", CHAIN, OURS), field="tls", in_quick=True),
    http("tls-new-c64", "64 visitors over TLS 1.3, a handshake for every request",
         Http(64, is_closing=True), ("nginx", CHAIN, OURS), field="tls"),
    http("tls-10m-c8", "8 visitors over TLS 1.3, responses of 10 MB", Http(8, 10 * MB),
         ("nginx", CHAIN, OURS), field="tls"),
)  # fmt: skip
STREAMS = (
    Scenario("sse-c1000", "1,000 listeners, an event each 20 ms", "sse", ServerSentEvents(1000),
             ("direct", CHAIN, RELAYS, OURS), CHAIN, ("nginx",), in_quick=True),
    Scenario("websocket-c32", "WebSocket through the tunnel, 64 B on 32 connections, echoed",
             "echo", WebSocket(), ("direct", CHAIN, RELAYS, OURS, "floor"), RELAYS,
             ("nginx",), in_quick=True),
    Scenario("pingpong", "64 B there and back, everything on one CPU", "pinned", PingPong(),
             ("direct", RELAYS, OURS, f"{OURS}-ws", *TUNNELS[:2], "floor"), RELAYS, in_quick=True),
    http("idle-visitors", "2,000 visitors who have asked once and stay: memory of each",
         IdleVisitors(2000), (CHAIN, "haproxy-chain", RELAYS, OURS, *PEERS[::2][:2]), field="idle",
         in_quick=True),
    http("slow-readers", "64 clients beside 64 who read 20 KiB a second of a large file",
         BesideSlowReaders(Http(64), 64), (CHAIN, OURS), in_quick=True),
)  # fmt: skip
TCP = tuple(
    Scenario(f"tcp-{name}", what, "tcp", Iperf(arguments), TUNNELS, SPLICE, ("iperf3",), in_quick)
    for name, what, arguments, in_quick in (
        ("up", "one stream of bytes from the visitor", (), True),
        ("down", "one stream of bytes to the visitor", ("-R",), True),
        ("up-8", "eight streams from the visitor", ("-P", "8"), False),
        ("down-8", "eight streams to the visitor", ("-P", "8", "-R"), False),
    )
)
WORKERS = (
    http("workers-c64", "1 worker beside 2, 64 clients", Http(64),
         (CHAIN, f"{OURS}-w1", f"{OURS}-w2"), in_quick=True),
    http("workers-c512", "1 worker beside 2, 512 clients", Http(512),
         (CHAIN, f"{OURS}-w1", f"{OURS}-w2")),
)  # fmt: skip
LOGGING = (
    http("logging-c64", "no request log, the request log, and access lines on stderr beside it",
         Http(64), (CHAIN, f"{OURS}-unlogged", OURS, f"{OURS}-access-log")),
)  # fmt: skip
SYSCALLS = tuple(
    Scenario(
        f"syscalls-c{clients}",
        f"system calls a request, {clients} clients",
        "http",
        SystemCalls(Http(clients)),
        (CHAIN, OURS, "floor"),
        CHAIN,
        ("wrk", "nginx", "perf"),
        in_quick=clients != 512,
        seconds=0.5,
    )
    for clients in (8, 64, 512)
)
# Other people's tunnels, before the same origins, ours and two bare relays beside them.
PEER_SCENARIOS = (
    http("peers-http-1k-c64", "tunnels: 64 kept-alive connections, responses of 1 KiB", Http(64),
         (CHAIN, "haproxy-chain", "aiohttp", RELAYS, OURS, f"{OURS}-ws", *PEERS), in_quick=True),
    http("peers-http-new-c64", "tunnels: 64 clients, a new connection for every request",
         Http(64, is_closing=True), (CHAIN, RELAYS, OURS, *PEERS)),
    Scenario("peers-tcp-up", "tunnels: one stream of bytes from the visitor", "tcp", Iperf(),
             (*TUNNELS[:3], RELAYS, SPLICE, "haproxy-chain", *PEERS), SPLICE, ("iperf3",), True),
    Scenario("peers-tcp-down-8", "tunnels: eight streams to the visitor", "tcp",
             Iperf(("-P", "8", "-R")),
             (*TUNNELS[:3], RELAYS, SPLICE, "haproxy-chain", *PEERS), SPLICE, ("iperf3",)),
)  # fmt: skip
PROGRAMS = (
    Program("idle-links", "memory of idle links, a device each", ("idle_links.py",),
            ("--links", "2000"), unit="KiB a link", seconds=(3, 3)),
    Program("idle-links-many", "... as many as file descriptors allow",
            ("idle_links.py", "--links", "10000"), ("--links", "10000"), unit="KiB a link",
            seconds=(10, 10)),
    Program("storm", "10,000 devices connect at once, a visitor keeps asking",
            ("storm.py", "--devices", "10000"), ("--devices", "10000"), ("nginx",),
            seconds=(25, 25)),
    Program("reconnects", "1,000 devices reconnect in waves: who is asked for their tokens",
            ("reconnects.py",), ("--devices", "200", "--waves", "2"), ("redis-server",),
            seconds=(20, 90)),
    Program("delay", "one download over a link of 100 ms, by the fault proxy", ("delay.py",),
            ("--size", "32"), ("nginx",), seconds=(3, 10)),
    Program("websocket-echo", "the codec as a server: 64 B on 32 connections, beside others",
            ("websocket_echo.py",), ("--rounds", "3", "--seconds", "1"), reference="picows",
            seconds=(21, 60)),
    Program("request-log", "the request log: refused, taken, stored", ("log_cost.py",),
            ("--rounds", "2", "--seconds", "1"), ("wrk", "nginx"), reference="refused",
            seconds=(15, 60)),
    Program("hooks", "a TCP tunnel in bulk with five data hooks and without", ("hooks.py",),
            ("--megabytes", "1000", "--rounds", "3"), seconds=(5, 30)),
    Program("stores", "records stored a second", ("stores.py",), ("--records", "100000"),
            seconds=(3, 10)),
    Program("control-plane", "CPU of the control plane at a paced 10,000 requests a second",
            ("control_plane.py", "--seconds", "2", "--rounds", "3"),
            ("--modes", "plain", "--rounds", "2", "--seconds", "2"), ("nginx",),
            seconds=(15, 90)),
    Program("profiles", "the profiles of a TCP tunnel side by side", ("profiles.py",),
            ("--size", "200M", "--rounds", "2", "--connections", "50"), ("iperf3",),
            reference="balanced", seconds=(20, 60)),
    Program("log-searches", "searches in a day of requests", ("log_store.py", "--rows", "10000000"),
            ("--rows", "200000"), seconds=(2, 60)),
    Program("tls-costs", "CPU of a handshake and of a GB, memory of a link, beside nginx",
            ("tls.py",), ("--rounds", "2", "--handshakes", "200"), ("nginx", "openssl"),
            reference="nginx", seconds=(24, 150)),
)  # fmt: skip

LOAD: tuple[Scenario | Program, ...] = (
    *KEEP_ALIVE, *NEW_CONNECTIONS, *UPLOADS, *CONNECTIONS, *TLS, *STREAMS, *TCP, *WORKERS, *LOGGING,
    *SYSCALLS, *PROGRAMS,
)  # fmt: skip
ALL: tuple[Scenario | Program, ...] = (*LOAD, *PEER_SCENARIOS)
BY_NAME = {each.name: each for each in ALL}
