"""A TCP tunnel through server and agent beside two bare relays in C: iperf3 in bulk.

    python benchmarks/load/tcp_tunnel.py [--size 4G] [--rounds 3] [--congestion reno] [--peers]

Over direct connections, and over the link with either carrier; relays that copy and that splice;
with --peers other people's tunnels that are installed (tcp_peers.py).

Runs take turns, so that each is beside its reference. What counts is the CPU time of both hops
for a gigabyte; the rate says little on a machine that is busy elsewhere. Our sockets take reno on
loopback; for a comparison everybody else should, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.load.client import Endpoint
from benchmarks.load.processes import (
    BenchmarkError,
    CpuTime,
    Process,
    accepts_connections,
    congestion_control,
    cpu_time,
    free_port,
)
from benchmarks.load.reference import Relay
from benchmarks.load.report import median_range
from benchmarks.load.subjects import ProxyEngine, Running
from benchmarks.load.tcp_peers import Peer, peers

CASES = {"up": (), "down": ("-R",), "up, 8 streams": ("-P", "8")}
EXIT_FAILED = 1
BUSY_TRIES = 20


class TcpTunnel(ProxyEngine):
    """... with a TCP tunnel in place of an HTTP one."""

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        port, public, data = free_port(), free_port(), folder / "data"
        server = self._start(
            folder / "server.log",
            *("run", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}"),
            *("--data-dir", str(data), "--tcp-ports", str(public), *self.run),
        )
        server.wait_until(lambda: accepts_connections(port))
        token = self._output("token", "create", "--name", "bench", "--data-dir", str(data))
        agent = self._start(
            folder / "agent.log",
            *("connect", "--server", f"http://127.0.0.1:{port}", "--token", token),
            *("--tcp", f"{public}=127.0.0.1:{origin}", "--transport", self.transport),
        )
        agent.wait_until(lambda: accepts_connections(public))
        return Running(Endpoint(public, "127.0.0.1"), {"server": server, "agent": agent})


def measure(running: Running, size: str, how: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds a gigabyte, and gigabits a second."""
    pids = [process.pid for process in running.proxies.values()]
    for _ in range(BUSY_TRIES):
        before = sum((cpu_time(pid) for pid in pids), CpuTime())
        done = subprocess.run(
            ["iperf3", "-J", "-c", "127.0.0.1", "-p", str(running.endpoint.port), "-n", size, *how],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        found = json.loads(done.stdout)
        # What the buffers of the run before still hold keeps its server busy for a moment.
        if "busy" not in found.get("error", ""):
            break
        time.sleep(0.5)
    if "error" in found:
        raise BenchmarkError(f"iperf3: {found['error']}")
    spent = sum((cpu_time(pid) for pid in pids), CpuTime()) - before
    received = found["end"]["sum_received"]
    return spent.total * 1e9 / received["bytes"], received["bits_per_second"] / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description="A TCP tunnel in bulk, beside bare relays.")
    parser.add_argument("--size", default="4G", help="bytes of a run, as iperf3 takes them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--congestion", metavar="NAME", help="the system's for the run (root)")
    parser.add_argument("--peers", action="store_true", help="other tunnels, too")
    chosen = parser.parse_args()
    if shutil.which("iperf3") is None:
        print("failed: apt-get install iperf3", file=sys.stderr)
        return EXIT_FAILED
    alone = ["--workers", "1"]
    raw = TcpTunnel("link", "tcp", [*alone, "--pool", "0"])
    websocket = TcpTunnel("link, WebSocket", "ws", [*alone, "--pool", "0"])
    subjects: list[TcpTunnel | Relay | Peer] = [
        TcpTunnel("direct", "tcp", alone), raw, websocket,
        Relay("relays", "copy"), Relay("relays, splice", "splice"),
    ]  # fmt: skip
    for peer in peers() if chosen.peers else ():
        reason = peer.unavailable()
        if reason is None:
            subjects.append(peer)
        else:
            print(f"skipped: {peer.name}: {reason}", file=sys.stderr)
    port = free_port()
    started: list[Process] = []
    with tempfile.TemporaryDirectory(prefix="proxy-engine-tcp-") as name, ExitStack() as stack:
        folder = Path(name)
        try:
            stack.enter_context(congestion_control(chosen.congestion))
            started.append(Process(["iperf3", "-s", "-p", str(port)], folder / "iperf3.log"))
            started[0].wait_until(lambda: accepts_connections(port))
            running = {each.name: each.start(folder / each.name, port) for each in subjects}
            for case, how in CASES.items():
                samples: dict[str, list[tuple[float, float]]] = {}
                for _ in range(chosen.rounds):
                    for label, where in running.items():
                        samples.setdefault(label, []).append(measure(where, chosen.size, how))
                framed, unframed = (
                    median_range(each[0] for each in samples[subject.name])[0]
                    for subject in (websocket, raw)
                )
                for label, rounds in samples.items():
                    cpu = median_range(each[0] for each in rounds)
                    rate = median_range(each[1] for each in rounds)[0]
                    span = f"{cpu[0]:.3f} [{cpu[1]:.3f}-{cpu[2]:.3f}]"
                    print(f"{case:14} {label:15} {span} CPU s/GB  {rate:5.1f} Gbit/s", flush=True)
                print(f"{case:14} WebSocket costs {100 * (framed / unframed - 1):+.0f} % CPU")
        except (BenchmarkError, subprocess.TimeoutExpired) as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            for subject in subjects:
                started += subject.started
            for process in reversed(started):
                process.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
