"""Where the CPU time of a request goes, or of a GB: samples of both processes, in classes.

    python benchmarks/load/where.py [--clients 8,64,512,bulk] [--floor FILE]

`perf record` samples server and agent 4,000 times a second of their CPU time, with stacks.
A sample belongs to the first class that fits:

    python     threads of the interpreter: request log and control plane
    deliver    in send(): what loopback makes the sender do for the receiver (softirq)
    send       in send() and sendmsg(), the rest of it
    recv       in recv()
    epoll      in epoll_wait(), and giving the CPU away there
    kernel     other kernel work: page faults, interrupts
    user       our own code, and libc's for us

Printed are the classes' shares of the CPU time that the processes' accounts show, in
microseconds a request (seconds a GB). Sampling costs some 5 %, evenly.
Needs root, or kernel.perf_event_paranoid at -1.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.client import download_together, run_wrk
from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.processes import BenchmarkError, congestion_control, cpu_time, process_tree
from benchmarks.parts.reference import Floor
from benchmarks.parts.subjects import Origin, Running, Subject, bulk_path

CLASSES = ("python", "deliver", "send", "recv", "epoll", "kernel", "user")
WORKERS = {"proxy-engine": "engine-", "floor": ""}  # how their threads' names begin
SAMPLES_PER_SECOND = 4000
ATTACH_SECONDS = 0.5
BULK_BYTES = 2 << 30
EXIT_FAILED, EXIT_USAGE = 1, 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the CPU time goes.")
    parser.add_argument("--clients", metavar="N,N", default="8,64,512,bulk")
    parser.add_argument("--seconds", type=float, default=5.0, help="per sample")
    parser.add_argument("--floor", metavar="FILE", help="C source of the floor program")
    parser.add_argument("--congestion", metavar="NAME", help="as for run.py")
    return parser.parse_args()


def classify(frames: list[str]) -> str:
    """The class of one sample; the innermost frame comes first, "[k]" marks the kernel's."""
    names = {frame.removeprefix("[k]") for frame in frames}
    if names & {"__x64_sys_sendto", "__x64_sys_sendmsg", "__sys_sendto", "__sys_sendmsg"}:
        return "deliver" if names & {"do_softirq", "handle_softirqs"} else "send"
    if names & {"__x64_sys_recvfrom", "__sys_recvfrom"}:
        return "recv"
    if names & {"__x64_sys_epoll_wait", "do_epoll_wait"}:
        return "epoll"
    return "kernel" if frames and frames[0].startswith("[k]") else "user"


def samples(data: Path, workers: str) -> Iterator[str]:
    """The class of each sample of a perf.data file; `workers`: how their threads' names begin."""
    done = subprocess.run(
        ["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for block in done.stdout.split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip()]
        if not lines:
            continue
        frames = []
        for line in lines[1:]:
            parts = line.split()
            name = parts[1].partition("+")[0] if len(parts) > 1 else ""
            frames.append(f"[k]{name}" if "kernel.kallsyms" in line else name)
        is_worker = lines[0].strip().startswith(workers)
        yield classify(frames) if is_worker else "python"


def measure(
    running: Running, case: str, seconds: float, folder: Path, workers: str
) -> dict[str, dict[str, float]]:
    """role -> class -> microseconds a request, or seconds a GB."""
    recorders = {}
    for role, process in running.proxies.items():
        pids = ",".join(str(pid) for pid in process_tree(process.pid))
        recorders[role] = subprocess.Popen(
            ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND),
             "-o", str(folder / f"{role}.data"), "-p", pids],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    time.sleep(ATTACH_SECONDS)
    before = {role: cpu_time(process.pid) for role, process in running.proxies.items()}
    if case == "bulk":
        units = download_together(running.endpoint, bulk_path(1), 1).size / 1e9
    else:
        wrk = run_wrk(running.endpoint, int(case), seconds)
        if wrk.errors or not wrk.requests:
            raise BenchmarkError(f"{wrk.requests} requests and {wrk.errors} errors")
        units = wrk.requests / 1e6
    found = {}
    for role, process in running.proxies.items():
        spent = (cpu_time(process.pid) - before[role]).total / units
        recorders[role].send_signal(signal.SIGINT)
        recorders[role].wait(30)
        counted = Counter(samples(folder / f"{role}.data", workers))
        total = counted.total()
        if not total:
            raise BenchmarkError("perf took no samples")
        found[role] = {name: spent * counted[name] / total for name in CLASSES}
    return found


def run(folder: Path, chosen: argparse.Namespace) -> None:
    origin = Origin(folder / "origin", BULK_BYTES, [1])
    subjects: list[Subject] = [ProxyEngine("proxy-engine", "tcp"), Floor(chosen.floor)]
    started = [origin.process]
    running: dict[str, Running] = {}
    try:
        for subject in subjects:
            if subject.unavailable() is not None:
                continue
            try:
                running[subject.name] = subject.start(folder / subject.name, origin.port)
            finally:
                started.extend(subject.started)
        heads = "".join(f"{name:>9}" for name in (*CLASSES, "all"))
        print(f"{'us a request, s a GB':30}{heads}")
        for case in chosen.clients.split(","):
            digits = 3 if case == "bulk" else 2
            for name, each in running.items():
                if case != "bulk":
                    run_wrk(each.endpoint, int(case), 1)
                for role, classes in measure(
                    each, case, chosen.seconds, folder, WORKERS[name]
                ).items():
                    figures = [*classes.values(), sum(classes.values())]
                    cells = "".join(f"{figure:>9.{digits}f}" for figure in figures)
                    print(f"  {f'{case} {name} {role}':28}{cells}", flush=True)
    finally:
        for process in reversed(started):
            process.stop()


def main() -> int:
    chosen = arguments()
    if shutil.which("perf") is None:
        print("perf not found: apt-get install linux-perf")
        return EXIT_USAGE
    with tempfile.TemporaryDirectory(prefix="proxy-engine-where-") as folder:
        try:
            with congestion_control(chosen.congestion):
                run(Path(folder), chosen)
        except BenchmarkError as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
