"""WebSocket echo: messages a second and CPU a message, beside other servers.

    python benchmarks/load/websocket_echo.py [--check]

64 bytes on 32 connections, one message under way on each. The client is C and looks at
nothing; it has a CPU of its own, the server under test another. `bare-c` sends back the
bytes as they came: what kernel and client leave to be had. Its figure, and the share of a
CPU that the client was busy, say whether the client was in the way. Samples are
interleaved; figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.processes import (
    BenchmarkError,
    CpuTime,
    Process,
    accepts_connections,
    cpu_time,
    free_port,
)
from benchmarks.parts.reference import REFERENCE, compile_program
from benchmarks.parts.results import emit
from benchmarks.parts.rounds import Figures, interleaved, run_client
from benchmarks.parts.samples import spread
from benchmarks.parts.subjects import ROOT

OURS = "proxy-engine"
BARE = "bare-c"
BUDGET = 150_000  # messages a second
EXIT_FAILED = 1
PLAIN_HEADER = 2  # bytes before a short payload of a server
MASKED_HEADER = 6  # ... when what we sent comes back


@dataclass
class Server:
    name: str
    command: list[str]  # the port is put behind it
    needs: str | None = None  # a module
    header_size: int = PLAIN_HEADER

    def unavailable(self) -> str | None:
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed: pip install --group bench"
        return None


def servers(folder: Path) -> list[Server]:
    python = [sys.executable, str(ROOT / "benchmarks" / "load" / "websocket_servers.py")]
    ours = [sys.executable, "-m", "proxy_engine_core._testing.echo_server", "--port"]
    bare = str(compile_program(REFERENCE / "echo.c", folder))
    return [
        Server(BARE, [bare], header_size=MASKED_HEADER),
        Server(OURS, ours, "proxy_engine_core._testing.echo"),
        Server("proxy-engine-python", [*python, "proxy-engine-python"]),
        Server("picows", [*python, "picows"], "picows"),
        Server("aiohttp", [*python, "aiohttp"], "aiohttp"),
        Server("websockets", [*python, "websockets"], "websockets"),
    ]


def arguments() -> argparse.Namespace:
    cpus = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description="WebSocket echo servers side by side.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a sample")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="bytes of a message, at most 125")
    parser.add_argument("--server-cpu", type=int, default=cpus[0])
    parser.add_argument("--client-cpu", type=int, default=cpus[-1])
    parser.add_argument("--check", action="store_true", help="exit 1 when below the budget")
    parser.add_argument("--smoke", action="store_true", help="does it still run?")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.rounds, chosen.seconds = 1, 0.2
    return chosen


def start(server: Server, folder: Path, cpu: int) -> tuple[Process, int]:
    port = free_port()
    folders = [str(ROOT / "engine"), str(ROOT / "proxy"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, folders))
    os.sched_setaffinity(0, {cpu})  # inherited by what is started
    process = Process(
        [*server.command, str(port)], folder / f"{server.name}.log", {"PYTHONPATH": path}
    )
    try:
        process.wait_until(lambda: accepts_connections(port))
    except BenchmarkError:
        process.stop()
        raise
    return process, port


def measure(
    client: Path, server: Server, process: Process, port: int, chosen: argparse.Namespace
) -> Figures:
    os.sched_setaffinity(0, {chosen.client_cpu})
    before: CpuTime = cpu_time(process.pid)
    found = run_client(
        client, port, chosen.connections, chosen.size, chosen.seconds, server.header_size,
        timeout=60 + chosen.seconds,
    )  # fmt: skip
    spent = (cpu_time(process.pid) - before).total
    # The warm-up, a tenth, is in the server's time and not in the client's count.
    return {
        "rate": found["messages"] / found["seconds"],
        "cpu": spent * 1e6 / (found["messages"] * 1.1),
        "client": found["cpu"] / found["seconds"],
    }


def run_rounds(folder: Path, chosen: argparse.Namespace) -> dict[str, list[Figures]]:
    client = compile_program(REFERENCE / "websocket_load.c", folder)
    running: dict[str, tuple[Server, Process, int]] = {}
    try:
        for server in servers(folder):
            reason = server.unavailable()
            if reason is not None:
                print(f"{server.name}: not run, {reason}")
                continue
            running[server.name] = (server, *start(server, folder, chosen.server_cpu))
        return interleaved(
            list(running), chosen.rounds, lambda name: measure(client, *running[name], chosen)
        )
    finally:
        for _, process, _ in running.values():
            process.stop()


def table(samples: Mapping[str, list[Figures]]) -> str:
    lines = [f"  {'':20}{'messages/s':>32}{'CPU us':>8}{'client busy':>13}"]
    for name, rounds in samples.items():
        rate = spread(each["rate"] for each in rounds)
        cpu = spread(each["cpu"] for each in rounds)[0]
        client = spread(each["client"] for each in rounds)[0]
        cell = f"{rate[0]:,.0f} [{rate[1]:,.0f}-{rate[2]:,.0f}]"
        lines.append(f"  {name:20}{cell:>32}{cpu:>8.2f}{client:>12.0%}")
    return "\n".join(lines)


def main() -> int:
    chosen = arguments()
    with tempfile.TemporaryDirectory(prefix="proxy-engine-websocket-") as folder:
        try:
            samples = run_rounds(Path(folder), chosen)
        except (BenchmarkError, subprocess.TimeoutExpired) as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    print(f"{chosen.size} B back and forth on {chosen.connections} connections:")
    print(table(samples))
    for name, rounds in samples.items():
        emit(chosen.json, "websocket-echo", name, rounds)
    if OURS not in samples:
        return EXIT_FAILED if chosen.check else 0
    found = spread(each["rate"] for each in samples[OURS])[0]
    is_below = found < BUDGET
    print(
        f"  {OURS}: {found:,.0f}/s, {'BELOW' if is_below else 'above'} the budget of {BUDGET:,}/s"
    )
    return EXIT_FAILED if chosen.check and is_below else 0


if __name__ == "__main__":
    sys.exit(main())
