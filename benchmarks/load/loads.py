"""The loads: what is done to a subject in one sample, and what it cost.

A load returns figures by name; those that all have:

    cost          CPU of the proxies for a unit: us a request, message or event, s a GB
    cost_user     ... of which user code
    cost_server, cost_agent    ... by process; with references the hop nearer the client is "server"
    switches      context switches of the proxies for a unit
    rate          units a second, Gbit/s
    p50_us, p99_us    latency as the client saw it
    client_busy   share of a CPU that the client had: near 1 it is what limits the rate
    origin_busy   ... the origin
    pss_mib, rss_mib   of the proxies, right after the load
    stolen_ticks  what the hypervisor gave to others meanwhile
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from benchmarks.load.stage import SSE_PADDING, Field, Stage
from benchmarks.parts import counters
from benchmarks.parts.client import Endpoint, run_iperf, run_wrk
from benchmarks.parts.processes import (
    Account,
    BenchmarkError,
    CpuTime,
    memory_kib,
    stolen_ticks,
)
from benchmarks.parts.rounds import run_client
from benchmarks.parts.samples import Figures
from benchmarks.parts.subjects import BODY_BYTES, Running, body_path, bulk_path

SETTLE_SECONDS = 0.5
EARLY_REQUESTS, EARLY_CONNECTIONS = 16_000, 8  # before idle visitors: twice what they ask


@dataclass(frozen=True)
class Work:
    """What a client did: units are millions of requests, so CPU seconds become us each, or GB."""

    units: float
    seconds: float
    cpu: CpuTime  # of the client
    figures: Figures


class Load(Protocol):
    @property
    def unit(self) -> str: ...

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work: ...


def measure(stage: Stage, place: Field, running: Running, load: Load, seconds: float) -> Figures:
    """One sample. Raises: BenchmarkError, for any answer that is not the expected one."""
    processes = dict(running.proxies)
    for process in processes.values():
        process.check()
    if place.origin is not None:
        processes["origin"] = place.origin
    before = {role: Account.of(process.pid) for role, process in processes.items()}
    stolen = stolen_ticks()
    work = load.apply(stage, running, seconds)
    figures = dict(work.figures)
    figures["stolen_ticks"] = float(stolen_ticks() - stolen)
    spent = {role: Account.of(process.pid) - before[role] for role, process in processes.items()}
    figures["client_busy"] = work.cpu.total / work.seconds
    if "origin" in spent:
        figures["origin_busy"] = spent["origin"].cpu.total / work.seconds
    if not running.proxies:
        return figures
    proxies = sum((spent[role].cpu for role in running.proxies), CpuTime())
    figures["cost"] = proxies.total / work.units
    figures["cost_user"] = proxies.user / work.units
    for role in running.proxies:
        figures[f"cost_{role}"] = spent[role].cpu.total / work.units
    switches = sum(spent[role].switches for role in running.proxies)
    figures["switches"] = switches / work.units / (1e6 if load.unit != "GB" else 1)
    for kind in ("Pss", "Rss"):
        memory = sum(memory_kib(process.pid, kind) for process in running.proxies.values())
        figures[f"{kind.lower()}_mib"] = memory / 1024
    return figures


@dataclass(frozen=True)
class Http:
    """wrk, one thread: so many clients, one request after the other on each."""

    clients: int
    body: int = BODY_BYTES  # of a response
    upload: int = 0  # of a request
    is_closing: bool = False  # a connection for every request

    @property
    def unit(self) -> str:
        return "GB" if max(self.body, self.upload) >= 64 << 10 else "request"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        path = "/upload" if self.upload else body_path(self.body)
        wrk = run_wrk(
            running.endpoint, self.clients, seconds, path,
            upload=self.upload, is_closing=self.is_closing,
        )  # fmt: skip
        moved = (wrk.requests * self.upload if self.upload else wrk.size) / 1e9
        in_bulk = self.unit == "GB"  # large responses count by the byte, whole or not
        if wrk.errors or not (moved if in_bulk else wrk.requests):
            raise BenchmarkError(f"{wrk.requests} requests and {wrk.errors} errors")
        figures = {
            "rate": moved * 8 / wrk.seconds if in_bulk else wrk.requests / wrk.seconds,
            "p50_us": float(wrk.p50_us),
            "p99_us": float(wrk.p99_us),
            "max_us": float(wrk.max_us),
        }
        return Work(moved if in_bulk else wrk.requests / 1e6, wrk.seconds, wrk.cpu, figures)


@dataclass(frozen=True)
class Iperf:
    """iperf3 through a byte tunnel."""

    arguments: tuple[str, ...] = ()
    unit: str = "GB"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        size = max(64 << 20, int(4e9 * stage.options.scale))
        end = run_iperf(running.endpoint.port, "-n", str(size), *self.arguments)
        received = end["sum_received"]
        host = end["cpu_utilization_percent"]["host_total"] / 100
        figures = {"rate": received["bits_per_second"] / 1e9}
        cpu = CpuTime(host * received["seconds"])
        return Work(received["bytes"] / 1e9, received["seconds"], cpu, figures)


@dataclass(frozen=True)
class PingPong:
    """64 bytes there and back through an upgraded connection, one message on its way."""

    size: int = 64
    unit: str = "message"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        count = int(4000 * seconds)
        started = time.monotonic()
        with stage.affinity("pinned"):
            found = run_client(
                stage.program("pingpong"), running.endpoint.port, running.endpoint.host,
                self.size, 500, count, timeout=120,
            )  # fmt: skip
        figures = {f"{name}_us": nanoseconds / 1e3 for name, nanoseconds in found.items()}
        took = time.monotonic() - started
        return Work((count + 500) / 1e6, took, CpuTime(), figures | {"rate": count / took})


@dataclass(frozen=True)
class WebSocket:
    """Messages of 64 bytes through the tunnel: one on its way on each connection, echoed."""

    connections: int = 32
    size: int = 64
    unit: str = "message"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        # The echo sends back what it got, mask and all: 6 bytes before the payload.
        found = run_client(
            stage.program("websocket_load"), running.endpoint.port, self.connections, self.size,
            seconds, 6, running.endpoint.host, timeout=60 + seconds,
        )  # fmt: skip
        # The warm-up, a tenth, is in the proxies' time and not in the client's count.
        messages = found["messages"] * 1.1
        figures = {"rate": found["messages"] / found["seconds"]}
        return Work(messages / 1e6, found["seconds"], CpuTime(found["cpu"]), figures)


@dataclass(frozen=True)
class ServerSentEvents:
    """An event every 20 ms to each of so many listeners, and how late it comes."""

    listeners: int
    unit: str = "event"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        found = run_client(
            stage.program("sse"), "client", running.endpoint.port, running.endpoint.host,
            self.listeners, seconds, timeout=60 + seconds,
        )  # fmt: skip
        figures = {
            "rate": found["events"] / found["seconds"],
            "p50_us": found["p50"],
            "p99_us": found["p99"],
            "event_bytes": SSE_PADDING + 24.0,
        }
        events = found["events"] * 1.1
        return Work(events / 1e6, found["seconds"], CpuTime(found["cpu"]), figures)


@dataclass(frozen=True)
class IdleVisitors:
    """Connections that have had one answer each. `kib_a_connection` is what the proxies hold beyond
    what they had before the first of all: what was freed and is kept since is there for these.

    What requests leave behind, in logs and caches of a store, is no connection's: before the first
    come as many requests, on a few connections, as such things need to be as large as they get.
    Counted are pages of their own; what they have of a shared library's depends on who else runs.
    """

    visitors: int
    unit: str = "connection"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        if running.unused_kib is None:
            self._ask_often(running.endpoint)
        time.sleep(SETTLE_SECONDS)  # what the sample before had is closed by now
        if running.unused_kib is None:
            running.unused_kib = self._memory(running)
        cpu, started = time.process_time(), time.monotonic()
        held: list[socket.socket] = []
        try:
            for _ in range(self.visitors):
                held.append(peer := socket.create_connection(("127.0.0.1", running.endpoint.port)))
                peer.settimeout(30)
                peer.sendall(f"GET / HTTP/1.1\r\nHost: {running.endpoint.host}\r\n\r\n".encode())
                if not peer.recv(8192).startswith(b"HTTP/1.1 200 "):
                    raise BenchmarkError("a visitor had no answer")
            took, cpu = time.monotonic() - started, time.process_time() - cpu
            time.sleep(SETTLE_SECONDS)
            grown = self._memory(running) - running.unused_kib
        finally:
            for peer in held:
                peer.close()
        figures = {"rate": self.visitors / took, "kib_a_connection": grown / self.visitors}
        return Work(self.visitors / 1e6, took, CpuTime(cpu), figures)

    @staticmethod
    def _ask_often(endpoint: Endpoint) -> None:
        for _ in range(EARLY_CONNECTIONS):
            early = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
            with closing(early):
                for _ in range(EARLY_REQUESTS // EARLY_CONNECTIONS):
                    early.request("GET", "/", headers={"Host": endpoint.host})
                    try:
                        answer = early.getresponse()
                        answer.read()
                    except http.client.HTTPException as error:
                        raise BenchmarkError(f"an early visitor: {error!r}") from error
                    if answer.status != 200:
                        raise BenchmarkError(f"an early visitor was answered {answer.status}")

    @staticmethod
    def _memory(running: Running) -> int:
        return sum(memory_kib(process.pid, "Anonymous") for process in running.proxies.values())


@dataclass(frozen=True)
class BesideSlowReaders:
    """A load while others have asked for a large file and do not read it."""

    load: Http
    readers: int
    unit: str = "request"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        held = [self._ask(running.endpoint) for _ in range(self.readers)]
        stop = threading.Event()

        def sip() -> None:
            while not stop.wait(0.05):
                for peer in held:
                    peer.recv(1024)

        sipping = threading.Thread(target=sip)
        sipping.start()
        try:
            return self.load.apply(stage, running, seconds)
        finally:
            stop.set()
            sipping.join()
            for peer in held:
                peer.close()

    @staticmethod
    def _ask(endpoint: Endpoint) -> socket.socket:
        peer = socket.socket()
        peer.settimeout(30)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", endpoint.port))
        peer.sendall(f"GET {bulk_path(1)} HTTP/1.1\r\nHost: {endpoint.host}\r\n\r\n".encode())
        return peer


@dataclass(frozen=True)
class SystemCalls:
    """A load whose proxies' system calls are counted; its figures are `calls_<role>` a unit."""

    load: Http
    unit: str = "request"

    def apply(self, stage: Stage, running: Running, seconds: float) -> Work:
        run_wrk(running.endpoint, self.load.clients, 1)  # connections are made, buffers are there
        made: dict[str, Callable[[], int]] = {
            role: counters.Counter(process.pid).stop for role, process in running.proxies.items()
        }
        counters.Counter.settle()
        try:
            work = self.load.apply(stage, running, seconds)
        finally:
            calls = {role: stop() for role, stop in made.items()}
        requests = work.units * 1e6
        return Work(
            work.units, work.seconds, work.cpu,
            {f"calls_{role}": count / requests for role, count in calls.items()},
        )  # fmt: skip
