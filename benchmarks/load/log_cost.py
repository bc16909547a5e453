"""What the request log costs: records refused, taken and dropped, stored.

    python benchmarks/load/log_cost.py [--check]

The same server three times (log_server.py), measured in turns: once the ring is full and
every record refused, which costs next to nothing and stands for "no log"; once records are
taken out of the ring and thrown away; once they are stored as shipped. Printed is what the
server and the agent spend on a request and by how much more it is than without a log.

A figure for the ring alone stands below: one record of 240 bytes written and read.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engine"))

from benchmarks.parts.client import run_wrk
from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.processes import BenchmarkError, CpuTime, Process, cpu_time
from benchmarks.parts.results import emit
from benchmarks.parts.rounds import in_turn
from benchmarks.parts.samples import spread
from benchmarks.parts.subjects import Origin, Running

MODES = ("refused", "ring", "stored")  # of log_server.py
BUDGET_PERCENT = 3.0  # of a request, for the ring
RECORDS_BUDGET = 50_000  # a second
RECORD_SIZE, RING_SIZE, RING_RECORDS = 240, 4 << 20, 100_000
WARM_UP_SECONDS = 3.0  # in which the ring that nobody empties becomes full
EXIT_FAILED = 1

Samples = dict[str, list[float]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The request log's price.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=2.0, help="per sample")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    return parser.parse_args()


def measure(running: Running, origin: Process, clients: int, seconds: float) -> tuple[float, float]:
    """CPU of server and agent a request in us, and as a share of what the ends spend."""
    pids = [process.pid for process in running.proxies.values()]
    before = sum((cpu_time(pid) for pid in pids), CpuTime())
    ends = cpu_time(origin.pid)
    wrk = run_wrk(running.endpoint, clients, seconds)
    if wrk.errors or not wrk.requests:
        raise BenchmarkError(f"{wrk.requests} requests and {wrk.errors} errors")
    spent = sum((cpu_time(pid) for pid in pids), CpuTime()) - before
    ends = cpu_time(origin.pid) - ends + wrk.cpu
    return spent.total * 1e6 / wrk.requests, spent.total / ends.total


def run_rounds(folder: Path, chosen: argparse.Namespace) -> tuple[Samples, Samples]:
    prices: Samples = {mode: [] for mode in MODES}
    shares: Samples = {mode: [] for mode in MODES}
    origin = Origin(folder / "origin", 0, [])
    subjects = {mode: ProxyEngine(mode, "tcp") for mode in MODES}
    program = str(Path(__file__).with_name("log_server.py"))
    try:
        running = {}
        for mode, subject in subjects.items():
            subject.command = [sys.executable, program, mode]
            running[mode] = subject.start(folder / mode, origin.port)
            run_wrk(running[mode].endpoint, chosen.clients, WARM_UP_SECONDS)
        for number in range(chosen.rounds):
            for mode in in_turn(MODES, number):
                price, share = measure(
                    running[mode], origin.process, chosen.clients, chosen.seconds
                )
                prices[mode].append(price)
                shares[mode].append(share)
        return prices, shares
    finally:
        for subject in subjects.values():
            for process in reversed(subject.started):
                process.stop()
        origin.process.stop()


def ring_ns() -> float:
    """One record through a ring, there and back, on a thread of its own: the best of twenty."""
    from proxy_engine_core._testing.core_parts import ring_bench

    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        ring_bench(RING_SIZE, RECORD_SIZE, RING_RECORDS)
        best = min(best, time.perf_counter() - started)
    return best / RING_RECORDS * 1e9


def main() -> int:
    chosen = arguments()
    with tempfile.TemporaryDirectory(prefix="proxy-engine-log-") as folder:
        try:
            prices, shares = run_rounds(Path(folder), chosen)
        except BenchmarkError as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    print(f"{'log':10}{'CPU us/req':>22}{'of the ends':>14}{'more than refused':>20}")
    more = {}
    for mode in MODES:
        price = spread(prices[mode])
        pairs = zip(shares[mode], shares["refused"], strict=True)
        more[mode] = 100 * (statistics.median(own / none for own, none in pairs) - 1)
        print(
            f"  {mode:8}{f'{price[0]:.1f} [{price[1]:.1f}-{price[2]:.1f}]':>22}"
            f"{statistics.median(shares[mode]):>14.3f}{more[mode]:>18.1f} %"
        )
    each = ring_ns()
    for mode in MODES:
        pairs = zip(prices[mode], shares[mode], strict=True)
        rounds = [{"cost": price, "of_ends": share} for price, share in pairs]
        emit(chosen.json, "request-log", mode, rounds)
    figures = {"ns": each, "share_of_request": each / 1000 / statistics.median(prices["refused"])}
    emit(chosen.json, "request-log", "a-record-through-the-ring", [figures])
    per_second = 1e9 / each
    share = 100 * each / 1000 / statistics.median(prices["refused"])
    is_over = share > BUDGET_PERCENT or per_second < RECORDS_BUDGET
    print(
        f"  one record through the ring: {each:.0f} ns, {per_second:,.0f} a second,"
        f" {share:.2f} % of a request: {'OVER' if is_over else 'within'} budget"
        f" {BUDGET_PERCENT:.0f} % at {RECORDS_BUDGET:,}"
    )
    return EXIT_FAILED if chosen.check and is_over else 0


if __name__ == "__main__":
    sys.exit(main())
