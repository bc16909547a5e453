"""What stands while scenarios are measured: origins, and subjects before them.

A field is an origin of one kind. Each subject is started once, when a scenario first asks for it,
and idles while others are measured; all are stopped together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.peers import HaProxyTcp, peers
from benchmarks.parts.processes import (
    BenchmarkError,
    Process,
    accepts_connections,
    congestion_control,
    free_port,
)
from benchmarks.parts.reference import REFERENCE, Floor, Relay, compile_program
from benchmarks.parts.subjects import (
    CONNECTIONS,
    CONNECTIONS_MANY,
    AiohttpProxy,
    Certificate,
    HaProxy,
    Nginx,
    Origin,
    Running,
    Subject,
)

OURS = "proxy-engine"
BULK_BYTES = 1 << 30
BULK_STREAMS = (1, 8)
SSE_INTERVAL_US, SSE_PADDING = 20_000, 100


@dataclass(frozen=True)
class Options:
    """How long, how often, and what of the machine to change for it."""

    rounds: int = 5
    seconds: float = 3.0  # of a sample
    scale: float = 1.0  # share of the full size, where a scenario has one
    floor: str | None = None  # C source of the floor program
    against: str | None = None  # another checkout, built
    congestion: str | None = None
    say: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr))


@dataclass
class Field:
    port: int
    origin: Process | None
    running: dict[str, Running] = field(default_factory=dict)


class Stage:
    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self.skipped: dict[str, str] = {}  # subject -> why
        self._fields: dict[str, Field] = {}
        self._started: list[Process] = []
        self._stack = ExitStack()
        self._programs: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self._stack.enter_context(congestion_control(self.options.congestion))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Agents before their servers, proxies before the origin.
        for process in reversed(self._started):
            process.stop()
        self._stack.close()

    def program(self, name: str) -> Path:
        """The compiled client or origin of benchmarks/reference."""
        if name not in self._programs:
            folder = self.folder / "programs"
            folder.mkdir(exist_ok=True)
            self._programs[name] = compile_program(REFERENCE / f"{name}.c", folder)
        return self._programs[name]

    def origin(self, name: str) -> Field:
        if name not in self._fields:
            folder = self.folder / name
            folder.mkdir()
            self._fields[name] = self._make_field(name, folder)
        return self._fields[name]

    def subjects(self, name: str, wanted: Sequence[str]) -> dict[str, Running]:
        """Those of `wanted` that can be had here, started."""
        place = self.origin(name)
        for subject in wanted:
            key = f"{name}: {subject}"
            if subject in place.running or key in self.skipped:
                continue
            made = self._make_subject(name, subject)
            reason = made.unavailable()
            if reason is not None:
                self.skipped[key] = reason
                self.options.say(f"skipped: {subject}: {reason}")
                continue
            try:
                place.running[subject] = made.start(self.folder / name / subject, place.port)
            except BenchmarkError as error:
                if subject.startswith(OURS):
                    raise
                self.skipped[key] = f"it did not start: {error}"
                self.options.say(f"skipped: {subject}: {error}")
            finally:
                self._started.extend(made.started)
        return {subject: place.running[subject] for subject in wanted if subject in place.running}

    def _make_field(self, name: str, folder: Path) -> Field:
        if name in ("http", "tls", "many", "idle"):
            origin = Origin(folder / "origin", BULK_BYTES, BULK_STREAMS)
            self._started.append(origin.process)
            return Field(origin.port, origin.process)
        port = free_port()
        if name == "tcp":
            command = ["iperf3", "-s", "-p", str(port)]
        elif name == "sse":
            command = [str(self.program("sse")), "origin", str(port)]
            command += [str(SSE_INTERVAL_US), str(SSE_PADDING)]
        elif name in ("echo", "pinned", "upload"):
            command = [str(self.program("echo")), str(port)]
        else:
            raise BenchmarkError(f"there is no field {name}")
        with self.affinity(name):
            process = Process(command, folder / "origin.log")
        self._started.append(process)
        process.wait_until(lambda: accepts_connections(port))
        return Field(port, process)

    def _make_subject(self, name: str, subject: str) -> Subject:
        found = self._candidates(name).get(subject)
        if found is None:
            raise BenchmarkError(f"there is no subject {subject} in {name}")
        return found() if name != "pinned" else _Pinned(found())

    def _candidates(self, name: str) -> dict[str, Callable[[], Subject]]:
        certificate = None
        if name == "tls":
            folder = self.folder / "certificate"
            if not folder.exists():
                folder.mkdir()
                Certificate.make(folder)
            certificate = Certificate(folder / "web.pem", folder / "web.key")
        kind = "tcp" if name == "tcp" else "http"

        def ours(
            called: str, transport: str = "tcp", *run: str, kind: str = kind
        ) -> Callable[[], Subject]:
            return lambda: ProxyEngine(called, transport, run, kind=kind, certificate=certificate)

        options = self.options
        one = ("--workers", "1")
        found: dict[str, Callable[[], Subject]] = {
            "direct": lambda: Nginx("direct", 0),
            "nginx": lambda: Nginx("nginx", 1, certificate),
            "nginx-chain": lambda: Nginx(
                "nginx-chain", 2, certificate, CONNECTIONS_MANY if name == "many" else CONNECTIONS
            ),
            "haproxy": lambda: HaProxy("haproxy", 1),
            "haproxy-chain": lambda: HaProxy("haproxy-chain", 2),
            "aiohttp": lambda: AiohttpProxy("aiohttp"),
            "relay-chain": lambda: Relay("relay-chain", "copy"),
            "relay-splice": lambda: Relay("relay-splice", "splice"),
            "floor": lambda: Floor(options.floor, is_raw=name in ("echo", "pinned")),
            OURS: ours(OURS),
            f"{OURS}-ws": ours(f"{OURS}-ws", "ws"),
            f"{OURS}-w1": ours(f"{OURS}-w1", "tcp", *one),
            f"{OURS}-w2": ours(f"{OURS}-w2", "tcp", "--workers", "2"),
            f"{OURS}-unlogged": ours(f"{OURS}-unlogged", "tcp", "--request-sample", "0"),
            f"{OURS}-access-log": ours(f"{OURS}-access-log", "tcp", "--access-log"),
            # TCP tunnels: over direct connections, over the link, over the link in WebSocket.
            f"{OURS}-direct": ours(f"{OURS}-direct", "tcp", *one, kind="tcp"),
            f"{OURS}-link": ours(f"{OURS}-link", "tcp", *one, "--pool", "0", kind="tcp"),
            f"{OURS}-link-ws": ours(f"{OURS}-link-ws", "ws", *one, "--pool", "0", kind="tcp"),
            "against": lambda: ProxyEngine(
                "against",
                "tcp",
                one if kind == "tcp" else (),
                Path(options.against or "."),
                kind=kind,
                certificate=certificate,
            ),
        }
        if name == "tcp":
            found["haproxy-chain"] = HaProxyTcp
        for peer in peers():
            found[peer.name] = lambda peer=peer: peer  # type: ignore[misc]
        return found

    @staticmethod
    def affinity(name: str) -> _OneCpu:
        return _OneCpu(name == "pinned")


class _OneCpu:
    """This process, and what it starts meanwhile, on one CPU."""

    def __init__(self, is_wanted: bool) -> None:
        self._before = os.sched_getaffinity(0)
        self._is_wanted = is_wanted

    def __enter__(self) -> None:
        if self._is_wanted:
            os.sched_setaffinity(0, {min(self._before)})

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._before)


class _Pinned:
    """A subject that is started on the one CPU of all."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.name = subject.name

    @property
    def started(self) -> list[Process]:
        return self._subject.started

    def unavailable(self) -> str | None:
        return self._subject.unavailable()

    def start(self, folder: Path, origin: int) -> Running:
        with _OneCpu(True):
            return self._subject.start(folder, origin)
