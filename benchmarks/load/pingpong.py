"""Latency of a byte tunnel: 64 bytes there and back, everything on one CPU.

    python benchmarks/load/pingpong.py [--floor FILE] [--check]

A C client upgrades one connection and then has one message on its way at any time. All
processes share one CPU, so that a round trip is the work that it takes: neither sleeping
cores nor the scheduler's choice of a core are in it. The bare relay is two hops as we are,
and understands nothing. Samples are interleaved; what counts is the median over rounds of
our median round trip over the relay's of the same round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.load.processes import (
    BenchmarkError,
    CpuTime,
    Process,
    accepts_connections,
    cpu_time,
    free_port,
)
from benchmarks.load.reference import REFERENCE, Floor, Relay, compile_program
from benchmarks.load.report import median_range
from benchmarks.load.rounds import Figures, interleaved, run_client
from benchmarks.load.subjects import Nginx, ProxyEngine, Running, Subject
from benchmarks.load.tcp_tunnel import TcpTunnel

RELAY = "relay-chain"
OURS = "proxy-engine-tcp"
DIRECT = "tcp-direct"  # a TCP tunnel over a direct connection; tcp-link: over a stream
BUDGET = 1.15  # of the relay
WARM_UP = 500  # round trips on each connection that do not count
EXIT_FAILED = 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="64-byte ping-pong through a byte tunnel.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=10_000, help="round trips a sample")
    parser.add_argument("--size", type=int, default=64, help="bytes of a message")
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--floor", metavar="FILE", help="C source of the floor program")
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("--smoke", action="store_true", help="does it still run?")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.rounds, chosen.count = 1, 500
    return chosen


def measure(client: Path, running: Running, chosen: argparse.Namespace) -> Figures:
    """Microseconds of a round trip, and of CPU the proxies spend on one."""
    pids = [process.pid for process in running.proxies.values()]
    before = sum((cpu_time(pid) for pid in pids), CpuTime())
    found = run_client(
        client, running.endpoint.port, running.endpoint.host, chosen.size, WARM_UP, chosen.count,
        timeout=120,
    )  # fmt: skip
    spent = sum((cpu_time(pid) for pid in pids), CpuTime()) - before
    figures = {name: nanoseconds / 1e3 for name, nanoseconds in found.items()}
    return figures | {"cpu": spent.total * 1e6 / (chosen.count + WARM_UP)}


def run_rounds(folder: Path, chosen: argparse.Namespace) -> dict[str, list[Figures]]:
    client = compile_program(REFERENCE / "pingpong.c", folder)
    port = free_port()
    target = Process([str(compile_program(REFERENCE / "echo.c", folder)), str(port)],
                     folder / "echo.log")  # fmt: skip
    subjects: list[Subject] = [
        Nginx("direct", 0),
        Relay(RELAY, "copy"),
        ProxyEngine(OURS, "tcp"),
        ProxyEngine("proxy-engine-ws", "ws"),
        TcpTunnel(DIRECT, "tcp"),
        TcpTunnel("tcp-link", "tcp", ["--pool", "0"]),
        Floor(chosen.floor, is_raw=True),
    ]
    running: dict[str, Running] = {}
    started: list[Process] = [target]
    try:
        target.wait_until(lambda: accepts_connections(port))
        for subject in subjects:
            reason = subject.unavailable()
            if reason is not None:
                print(f"{subject.name}: not run, {reason}")
                continue
            try:
                running[subject.name] = subject.start(folder / subject.name, port)
            finally:
                started.extend(subject.started)
        return interleaved(
            list(running), chosen.rounds, lambda name: measure(client, running[name], chosen)
        )
    finally:
        for process in reversed(started):
            process.stop()


def ratio(samples: dict[str, list[Figures]], name: str, figure: str) -> float:
    pairs = zip(samples[name], samples[RELAY], strict=True)
    return median_range(ours[figure] / relay[figure] for ours, relay in pairs)[0]


def table(samples: dict[str, list[Figures]]) -> str:
    lines = [f"  {'':18}{'p50 us':>22}{'least':>8}{'p99':>8}{'CPU us':>8}{'of ' + RELAY:>16}"]
    for name, rounds in samples.items():
        p50 = median_range(each["p50"] for each in rounds)
        cells = f"  {name:18}{f'{p50[0]:.1f} [{p50[1]:.1f}-{p50[2]:.1f}]':>22}"
        for figure in ("least", "p99", "cpu"):
            cells += f"{median_range(each[figure] for each in rounds)[0]:>8.1f}"
        lines.append(cells + f"{ratio(samples, name, 'p50'):>16.2f}")
    return "\n".join(lines)


def main() -> int:
    chosen = arguments()
    os.sched_setaffinity(0, {chosen.cpu})  # all that is started from here on inherits it
    with tempfile.TemporaryDirectory(prefix="proxy-engine-pingpong-") as folder:
        try:
            samples = run_rounds(Path(folder), chosen)
        except (BenchmarkError, subprocess.TimeoutExpired) as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    print(f"{chosen.size} B there and back, all on CPU {chosen.cpu}: median [least-most] of rounds")
    print(table(samples))
    is_over = False
    for name in (OURS, DIRECT):
        found = ratio(samples, name, "p50")
        is_over = is_over or found > BUDGET
        verdict = "OVER" if found > BUDGET else "within"
        print(f"  {name}: {found:.2f} of {RELAY}, {verdict} budget {BUDGET:.2f}")
    return EXIT_FAILED if chosen.check and is_over else 0


if __name__ == "__main__":
    sys.exit(main())
