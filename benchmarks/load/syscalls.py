"""System calls per request, of the server's and of the agent's process.

    python benchmarks/load/syscalls.py [--clients 8,64,512] [--floor FILE] [--check]

Counted by `perf stat` on the kernel's tracepoint at the entry of every call, so nothing is
sampled and next to nothing slowed down (ptrace would; that changes what a turn finds to
do). Both processes are counted with all their threads: the request log's calls and the
control plane's are in it. Needs root, or kernel.perf_event_paranoid at -1, and tracefs.

How many events a turn finds depends on how the scheduler interleaves client, proxies and
origin, so a busy machine makes the figures better, not worse.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.load.client import run_wrk
from benchmarks.load.processes import BenchmarkError, Process, process_tree
from benchmarks.load.reference import Floor
from benchmarks.load.report import median_range
from benchmarks.load.subjects import (
    Nginx,
    Origin,
    ProxyEngine,
    Running,
    Subject,
    nginx_path,
)

OURS = "proxy-engine-tcp"
BUDGETS = {8: 3.8, 64: 2.8, 512: 2.3}  # calls per request and process
EVENT = "raw_syscalls:sys_enter"
ATTACH_SECONDS = 0.3  # perf says nothing when it has attached
EXIT_FAILED, EXIT_USAGE = 1, 2

Samples = dict[tuple[str, int, str], list[float]]  # subject, clients, role -> calls a request


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="System calls per request, counted.")
    parser.add_argument("--clients", metavar="N,N", default="8,64,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="per sample")
    parser.add_argument("--floor", metavar="FILE", help="C source of the floor program")
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    return parser.parse_args()


class Counter:
    """perf stat on one process and its children, from start() to stop()."""

    def __init__(self, pid: int) -> None:
        pids = ",".join(str(each) for each in process_tree(pid))
        self._popen = subprocess.Popen(
            ["perf", "stat", "-x", ",", "-e", EVENT, "-p", pids],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> int:
        self._popen.send_signal(signal.SIGINT)
        output = self._popen.communicate(timeout=10)[0]
        match = re.search(rf"^(\d+),,{EVENT},", output, re.MULTILINE)
        if match is None:
            raise BenchmarkError(f"perf does not count {EVENT}: {' '.join(output.split())[:200]}")
        return int(match[1])


def measure(running: Running, clients: int, seconds: float) -> dict[str, float]:
    run_wrk(running.endpoint, clients, 1)  # connections are made, buffers are there
    counters = {role: Counter(process.pid) for role, process in running.proxies.items()}
    time.sleep(ATTACH_SECONDS)
    wrk = run_wrk(running.endpoint, clients, seconds)
    counts = {role: counter.stop() for role, counter in counters.items()}
    if wrk.errors or not wrk.requests:
        raise BenchmarkError(f"{wrk.requests} requests and {wrk.errors} errors")
    return {role: calls / wrk.requests for role, calls in counts.items()}


def run_rounds(folder: Path, chosen: argparse.Namespace) -> Samples:
    samples: Samples = {}
    subjects: list[Subject] = [
        Nginx("nginx-chain", 2),
        ProxyEngine(OURS, "tcp"),
        ProxyEngine("proxy-engine-ws", "ws"),
        Floor(chosen.floor),
    ]
    origin = Origin(folder / "origin", 0, [])
    started: list[Process] = [origin.process]
    running: dict[str, Running] = {}
    try:
        for subject in subjects:
            reason = subject.unavailable()
            if reason is not None:
                print(f"{subject.name}: not run, {reason}")
                continue
            try:
                running[subject.name] = subject.start(folder / subject.name, origin.port)
            finally:
                started.extend(subject.started)
        for _ in range(chosen.rounds):
            for clients in map(int, chosen.clients.split(",")):
                for name, each in running.items():
                    for role, calls in measure(each, clients, chosen.seconds).items():
                        samples.setdefault((name, clients, role), []).append(calls)
        return samples
    finally:
        for process in reversed(started):
            process.stop()


def main() -> int:
    chosen = arguments()
    missing = [name for name in ("perf", "wrk") if shutil.which(name) is None]
    missing += [] if nginx_path() else ["nginx"]
    if missing:
        print(f"not found: {', '.join(missing)}")
        return EXIT_USAGE
    with tempfile.TemporaryDirectory(prefix="proxy-engine-syscalls-") as folder:
        try:
            samples = run_rounds(Path(folder), chosen)
        except BenchmarkError as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    is_over = False
    print(f"{'system calls per request':28}{'server':>22}{'agent':>22}   budget each")
    for clients in map(int, chosen.clients.split(",")):
        budget = BUDGETS.get(clients)
        for name in dict.fromkeys(name for name, _, _ in samples):
            cells = ""
            for role in ("server", "agent"):
                median, least, most = median_range(samples[name, clients, role])
                cells += f"{f'{median:.2f} [{least:.2f}-{most:.2f}]':>22}"
                if name == OURS and budget is not None and median > budget:
                    is_over = True
            limit = f"{budget:>8.1f}" if name == OURS and budget is not None else ""
            print(f"  {f'{name} c{clients}':26}{cells}   {limit}")
    if is_over:
        print("over budget", file=sys.stderr)
    return EXIT_FAILED if chosen.check and is_over else 0


if __name__ == "__main__":
    sys.exit(main())
