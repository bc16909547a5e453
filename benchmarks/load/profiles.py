"""The profiles of a TCP tunnel side by side: bulk, dialogues, and what a stalled reader holds.

    python benchmarks/load/profiles.py [--size 1G] [--rounds 3] [--congestion reno]

One server, one agent, a tunnel of each profile, taking turns: CPU of both for a gigabyte of iperf3,
up and down; 64 bytes there and back, the median; and the memory of a connection whose reader
stops in the middle of a download: the two processes' own (PSS), and what the kernel holds for all
sockets of the way, the client's and the target's among them.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.client import Endpoint, run_iperf
from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.processes import (
    BenchmarkError,
    CpuTime,
    Process,
    accepts_connections,
    congestion_control,
    cpu_time,
    free_port,
    memory_kib,
)
from benchmarks.parts.reference import REFERENCE, compile_program
from benchmarks.parts.results import emit
from benchmarks.parts.rounds import Figures, interleaved, run_client
from benchmarks.parts.samples import spread
from benchmarks.parts.subjects import Running

PROFILES = ("balanced", "throughput", "latency")
EXIT_FAILED = 1
WARM_UP, ROUND_TRIPS = 500, 5000
READ = 4 << 20  # bytes a reader takes before it stops
SETTLE_SECONDS = 0.5
PAGE_KIB = 4


class Tunnels(ProxyEngine):
    """... with a TCP tunnel of each profile to each of several targets."""

    def start_all(self, folder: Path, targets: dict[str, int]) -> dict[tuple[str, str], Running]:
        folder.mkdir(parents=True)
        port, data = free_port(), folder / "data"
        ports = {(profile, target): free_port() for profile in PROFILES for target in targets}
        server = self._start(
            folder / "server.log",
            *("run", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}"),
            *("--data-dir", str(data), "--tcp-ports", ",".join(map(str, ports.values()))),
            *("--workers", "1"),
        )
        server.wait_until(lambda: accepts_connections(port))
        token = self._output("token", "create", "--name", "bench", "--data-dir", str(data))
        words = []
        for (profile, target), public in ports.items():
            name = f"{profile}-{target}"
            words += ["--tcp", f"{name}:{public}=127.0.0.1:{targets[target]}"]
            words += ["--profile", f"{name}={profile}"]
        agent = self._start(
            folder / "agent.log",
            *("connect", "--server", f"http://127.0.0.1:{port}", "--token", token),
            *("--transport", self.transport, *words),
        )
        for public in ports.values():
            agent.wait_until(lambda: accepts_connections(public))  # noqa: B023
        processes = {"server": server, "agent": agent}
        return {
            key: Running(Endpoint(public, "127.0.0.1"), processes) for key, public in ports.items()
        }


class Flood:
    """A target that sends without end to whoever connects."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(
                    target=self._send, args=(self._listener.accept()[0],), daemon=True
                ).start()

    @staticmethod
    def _send(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while True:
                sock.sendall(bytes(1 << 16))

    def close(self) -> None:
        self._listener.close()


def kernel_kib() -> int:
    """Memory of all TCP sockets of this machine."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * PAGE_KIB
    raise BenchmarkError("/proc/net/sockstat does not say what TCP takes")


def stalled(running: Running, count: int) -> tuple[float, float]:
    """KiB of a connection whose reader has stopped: of the two processes, of the kernel."""

    def now() -> tuple[int, int]:
        time.sleep(SETTLE_SECONDS)
        return sum(memory_kib(each.pid) for each in running.proxies.values()), kernel_kib()

    before = now()
    with ExitStack() as stack:
        for _ in range(count):
            address = ("127.0.0.1", running.endpoint.port)
            sock = stack.enter_context(socket.create_connection(address))
            left = READ
            while left:
                left -= len(sock.recv(min(left, 1 << 16)))
        after = now()
    time.sleep(SETTLE_SECONDS)
    return (after[0] - before[0]) / count, (after[1] - before[1]) / count


def bulk(running: Running, size: str, *how: str) -> float:
    """CPU seconds of a gigabyte."""
    before = sum((cpu_time(each.pid) for each in running.proxies.values()), CpuTime())
    end = run_iperf(running.endpoint.port, "-n", size, *how)
    spent = sum((cpu_time(each.pid) for each in running.proxies.values()), CpuTime()) - before
    received: int = end["sum_received"]["bytes"]
    return spent.total * 1e9 / received


def sample(running: dict[tuple[str, str], Running], client: Path, name: str,
           chosen: argparse.Namespace) -> Figures:  # fmt: skip
    echo = running[name, "echo"]
    figures = {
        "up_s_a_gb": bulk(running[name, "bulk"], chosen.size),
        "down_s_a_gb": bulk(running[name, "bulk"], chosen.size, "-R"),
        "p50_us": run_client(
            client, echo.endpoint.port, "127.0.0.1", 64, WARM_UP, ROUND_TRIPS, timeout=120
        )["p50"] / 1e3,
    }  # fmt: skip
    ours, kernels = stalled(running[name, "flood"], chosen.connections)
    return figures | {"stalled_kib": ours, "stalled_kernel_kib": kernels}


def table(samples: dict[str, list[Figures]]) -> str:
    names = list(next(iter(samples.values()))[0])
    lines = [f"  {'':12}" + "".join(f"{name:>30}" for name in names)]
    for profile, rounds in samples.items():
        cells = f"  {profile:12}"
        for name in names:
            middle, least, most = spread(each[name] for each in rounds)
            ratio = spread(
                each[name] / (base[name] or 1)
                for each, base in zip(rounds, samples[PROFILES[0]], strict=True)
            )[0]
            cells += f"{f'{middle:.3g} [{least:.3g}-{most:.3g}] {ratio:.2f}x':>30}"
        lines.append(cells)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="The profiles of a TCP tunnel, side by side.")
    parser.add_argument("--size", default="1G", help="bytes of a bulk run, as iperf3 takes them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    parser.add_argument("--connections", type=int, default=100, help="whose memory is looked at")
    parser.add_argument("--congestion", metavar="NAME", help="the system's for the run (root)")
    chosen = parser.parse_args()
    if shutil.which("iperf3") is None:
        print("failed: apt-get install iperf3", file=sys.stderr)
        return EXIT_FAILED
    subject = Tunnels("profiles", "tcp")
    flood = Flood()
    started: list[Process] = []
    targets = {"bulk": free_port(), "echo": free_port(), "flood": flood.port}
    with tempfile.TemporaryDirectory(prefix="proxy-engine-profiles-") as name, ExitStack() as stack:
        folder = Path(name)
        try:
            client = compile_program(REFERENCE / "pingpong.c", folder)
            stack.enter_context(congestion_control(chosen.congestion))
            echo = compile_program(REFERENCE / "echo.c", folder)
            for target, command in (
                ("bulk", ["iperf3", "-s", "-p", str(targets["bulk"])]),
                ("echo", [str(echo), str(targets["echo"])]),
            ):
                started.append(Process(command, folder / f"{target}.log"))
                port = targets[target]
                started[-1].wait_until(lambda: accepts_connections(port))  # noqa: B023
            running = subject.start_all(folder / "tunnels", targets)
            samples = interleaved(
                PROFILES, chosen.rounds, lambda profile: sample(running, client, profile, chosen)
            )
            for profile, rounds in samples.items():
                emit(chosen.json, "profiles", profile, rounds)
            print("median [least-most] of rounds, and of balanced in the same round")
            print(table(samples))
        except (BenchmarkError, subprocess.TimeoutExpired) as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            flood.close()
            for process in reversed([*started, *subject.started]):
                process.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
