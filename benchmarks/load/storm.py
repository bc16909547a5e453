"""A connect storm: thousands of devices at once, while a visitor keeps asking.

    python benchmarks/load/storm.py [--devices 10000] [--again] [--check] [-- ARGUMENTS OF RUN]

Every device has its own token, makes the handshake, registers a tunnel and stays. All begin
in the same moment, as they do when a server comes back; with --again they have been there
before, so the server knows their tunnels. Printed are errors, links per second, how long a
device waited, what the server's memory grew by, and how long a visitor of another device
waits for a request before, during and after.

The devices are in processes of low priority: in real life they bring their own processors.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import select
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.load.idle_links import make_tokens, resident_kib
from benchmarks.parts.client import Endpoint
from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.processes import BenchmarkError, cpu_time
from benchmarks.parts.results import emit
from benchmarks.parts.samples import Figures, percentile
from benchmarks.parts.subjects import Origin

DEVICES_PER_PROCESS = 2500
DEVICE_SECONDS_MAX = 60.0  # from the start of the storm
VISITOR_INTERVAL = 0.002  # seconds between two requests of the visitor
CALM_SECONDS = 3.0  # before and after
RSS_BUDGET_MIB = 64.0  # growth for 10,000 idle devices
P99_RATIO_BUDGET = 2.0
HEADER = struct.Struct(">BBHII")


@dataclass
class Outcome:
    """What one process of devices, or all, went through."""

    waited: list[float]  # seconds, of each device that got its tunnel
    errors: list[str]


class Device:
    """One link, by hand: what it still has to send and what came."""

    def __init__(self, number: int, token: str) -> None:
        self.name = f"t{number}"
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.request = (
            f"GET /_proxy/link HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer {token}\r\n"
            "Connection: Upgrade\r\nUpgrade: proxy-engine-yamux\r\nProxy-Engine-Version: 1\r\n"
            f"Proxy-Engine-Window: 1048576\r\nProxy-Engine-Instance: {self.name}\r\n\r\n"
        ).encode()
        self.input = b""
        self.is_linked = False

    def readable(self) -> bool:
        """Take what came; true when the tunnel is registered. Raises BenchmarkError."""
        data = self.socket.recv(4096)
        if not data:
            raise BenchmarkError("closed")
        self.input += data
        if not self.is_linked:
            head, end, self.input = self.input.partition(b"\r\n\r\n")
            if not end:
                self.input = head
                return False
            if not head.startswith(b"HTTP/1.1 101 "):
                raise BenchmarkError(head[9:60].decode("latin-1"))
            self.is_linked = True
            text = b'{"type":"register","tunnels":[{"name":"%b"}]}' % self.name.encode()
            record = struct.pack(">I", len(text)) + text
            self.socket.send(HEADER.pack(0, 0, 1, 1, len(record)) + record)
        # The record comes in frames between others; its text is all that is looked at.
        if b'"refused":[]' in self.input:
            return True
        if b'"refused":[{' in self.input or b'"error"' in self.input:
            raise BenchmarkError(self.input.decode("latin-1"))
        return False


def storm(
    port: int, first: int, tokens: Sequence[str], ready: Barrier, leave: Event, pipe: Connection
) -> None:
    """A process of devices: connect all of them, report, stay until told to leave."""
    os.nice(10)
    devices = [Device(first + index, token) for index, token in enumerate(tokens)]
    by_fd = {device.socket.fileno(): device for device in devices}
    outcome = Outcome([], [])
    poller = select.epoll()
    ready.wait()
    started = time.monotonic()
    for fd, device in by_fd.items():
        device.socket.connect_ex(("127.0.0.1", port))
        poller.register(fd, select.EPOLLOUT)
    waiting = len(by_fd)
    while waiting and time.monotonic() - started < DEVICE_SECONDS_MAX:
        for fd, _ in poller.poll(1.0):
            device = by_fd[fd]
            try:
                if device.request:
                    device.socket.send(device.request)
                    device.request = b""
                    poller.modify(fd, select.EPOLLIN)
                    continue
                if not device.readable():
                    continue
                outcome.waited.append(time.monotonic() - started)
            except (OSError, BenchmarkError) as error:
                outcome.errors.append(f"{device.name}: {error}")
            poller.unregister(fd)
            waiting -= 1
    outcome.errors += ["no answer in time"] * waiting
    pipe.send(outcome)
    leave.wait()


class Visitor:
    """Asks on a kept-alive connection at a steady pace; a process of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.pipe, other = multiprocessing.Pipe()
        self._stop = multiprocessing.Event()
        self._process = multiprocessing.Process(
            target=self._visit, args=(endpoint, other, self._stop), daemon=True
        )
        self._process.start()

    @staticmethod
    def _visit(endpoint: Endpoint, pipe: Connection, stop: Event) -> None:
        request = f"GET / HTTP/1.1\r\nHost: {endpoint.host}\r\n\r\n".encode()
        peer = socket.create_connection(("127.0.0.1", endpoint.port), timeout=30)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        samples: list[tuple[float, float]] = []  # when, how long
        due = time.monotonic()
        while not stop.is_set():
            due = max(due + VISITOR_INTERVAL, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            started = time.monotonic()
            peer.sendall(request)
            answer = peer.recv(8192)
            while len(answer) < 1024 or b"\r\n\r\n" not in answer:
                answer += peer.recv(8192)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise BenchmarkError(f"the visitor was answered {answer[:40]!r}")
            samples.append((started, time.monotonic() - started))
        pipe.send(samples)

    def stop(self) -> list[tuple[float, float]]:
        self._stop.set()
        samples: list[tuple[float, float]] = self.pipe.recv()
        self._process.join()
        return samples


def run_storm(port: int, tokens: Sequence[str], leave: Event) -> tuple[Outcome, float, float]:
    """What became of the devices, and when it began and ended. They stay until `leave`."""
    shares = [
        (first, tokens[first : first + DEVICES_PER_PROCESS])
        for first in range(0, len(tokens), DEVICES_PER_PROCESS)
    ]
    ready = multiprocessing.Barrier(len(shares) + 1)
    pipes = []
    for first, share in shares:
        ours, theirs = multiprocessing.Pipe()
        arguments = (port, first, share, ready, leave, theirs)
        multiprocessing.Process(target=storm, args=arguments, daemon=True).start()
        pipes.append(ours)
    ready.wait()
    began = time.monotonic()
    outcomes: list[Outcome] = [pipe.recv() for pipe in pipes]
    ended = time.monotonic()
    all_waited = [each for outcome in outcomes for each in outcome.waited]
    return Outcome(all_waited, [e for o in outcomes for e in o.errors]), began, ended


def measure(folder: Path, chosen: argparse.Namespace) -> bool:
    subject = ProxyEngine("proxy-engine-tcp", "tcp", tuple(chosen.arguments))
    origin = Origin(folder / "origin", 1024, [1])
    try:
        data = folder / "proxy" / "data"
        tokens = asyncio.run(make_tokens(data, chosen.devices))
        running = subject.start(folder / "proxy", origin.port)
        server = running.proxies["server"]
        if chosen.again:
            leave = multiprocessing.Event()
            run_storm(running.endpoint.port, tokens, leave)
            leave.set()
            time.sleep(3)
        visitor = Visitor(running.endpoint)
        direct = Visitor(Endpoint(origin.port, "127.0.0.1"))
        time.sleep(CALM_SECONDS)
        before, cpu = resident_kib(server.pid), cpu_time(server.pid)
        leave = multiprocessing.Event()
        outcome, began, ended = run_storm(running.endpoint.port, tokens, leave)
        cpu = cpu_time(server.pid) - cpu
        after = resident_kib(server.pid)
        time.sleep(CALM_SECONDS)
        samples, reference = visitor.stop(), direct.stop()
        leave.set()
    finally:
        for process in (*reversed(subject.started), origin.process):
            process.stop()
    report_devices(outcome, ended - began, after - before, cpu.total, chosen.devices)
    print("without the proxy, on the same machine at the same time:")
    bare = report_visitor(reference, began, ended)
    print("through the proxy:")
    through = report_visitor(samples, began, ended)
    ratio = through["visitor_p99_during_over_before"]
    figures = {
        "devices": float(chosen.devices),
        "errors": float(len(outcome.errors)),
        "links_per_second": len(outcome.waited) / (ended - began),
        "cpu_us_a_link": cpu.total / chosen.devices * 1e6,
        "grown_kib_a_link": (after - before) / chosen.devices,
        "grown_mib": (after - before) / 1024,
        **through,
    }
    emit(chosen.json, "storm", "direct", [bare])
    emit(chosen.json, "storm", "proxy-engine", [figures])
    grown_max = RSS_BUDGET_MIB * 1024 * chosen.devices / 10_000
    return not outcome.errors and after - before <= grown_max and ratio <= P99_RATIO_BUDGET


def report_devices(
    outcome: Outcome, seconds: float, grown_kib: int, cpu: float, devices: int
) -> None:
    print(
        f"{devices} devices at once: {len(outcome.errors)} errors, {seconds:.2f} s,"
        f" {len(outcome.waited) / seconds:,.0f} links/s, {cpu / devices * 1e6:.0f} us CPU of the"
        " server a link"
    )
    for error in outcome.errors[:3]:
        print(f"  {error}")
    if outcome.waited:
        p50, p99 = (percentile(outcome.waited, share) for share in (0.5, 0.99))
        longest = max(outcome.waited)
        print(f"a device waited p50 {p50:.2f} s, p99 {p99:.2f} s, at most {longest:.2f} s")
    print(f"the server grew by {grown_kib / 1024:.1f} MiB, {grown_kib / devices:.2f} KiB a link")


def report_visitor(samples: list[tuple[float, float]], began: float, ended: float) -> Figures:
    """p99 before and during the storm, us, and the one by the other."""
    p99s = []
    parts = (("before", 0.0, began), ("during", began, ended), ("after", ended, float("inf")))
    for name, start, end in parts:
        took = [each * 1e6 for at, each in samples if start <= at < end]
        if not took:
            raise BenchmarkError(f"the visitor had no answer {name} the storm")
        p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
        p99s.append(p99)
        print(
            f"  {name}: {len(took)} requests, p50 {p50:,.0f} us, p99 {p99:,.0f} us,"
            f" at most {max(took):,.0f} us"
        )
    print(f"  p99 during the storm is {p99s[1] / p99s[0]:.2f} of that before")
    return {
        "visitor_p99_before_us": p99s[0],
        "visitor_p99_during_us": p99s[1],
        "visitor_p99_during_over_before": p99s[1] / p99s[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="A connect storm.")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--again", action="store_true", help="the devices are known already")
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("arguments", nargs="*", help="of proxy-engine run, after --")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxy-engine-storm-") as name:
        try:
            is_good = measure(Path(name), chosen)
        except (BenchmarkError, OSError) as error:
            print(f"failed: {error or type(error).__name__}", file=sys.stderr)
            return 1
    return 1 if chosen.check and not is_good else 0


if __name__ == "__main__":
    sys.exit(main())
