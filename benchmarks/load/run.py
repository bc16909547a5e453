"""Load benchmark: ours beside nginx, interleaved. `python benchmarks/load/run.py --help`.

Every subject is started once and idles while others are measured. A round measures
each case on each subject, beginning with another subject every time, so that a slow
minute of the machine hits all alike. What is compared is CPU time of the proxies per
request (or per GB) against two chained nginx in the same round.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.load import report
from benchmarks.load.client import Endpoint, download_together, run_wrk
from benchmarks.load.processes import (
    BenchmarkError,
    CpuTime,
    congestion_control,
    cpu_time,
    memory_kib,
)
from benchmarks.load.reference import Floor, Relay
from benchmarks.load.rounds import in_turn
from benchmarks.load.subjects import (
    ROOT,
    Origin,
    ProxyEngine,
    Running,
    Subject,
    bulk_path,
    nginx_path,
    product_subjects,
)

RESULTS = ROOT / "benchmarks" / "results" / "local"
WARM_UP_SECONDS = 1.0
EXIT_FAILED, EXIT_USAGE = 1, 2


def all_subjects(floor: str | None, against: str | None) -> tuple[Subject, ...]:
    relays = (Relay("relay-chain", "copy"), Relay("relay-splice", "splice"))
    other = () if against is None else (ProxyEngine("against", "tcp", root=Path(against)),)
    return (*product_subjects(), *other, *relays, Floor(floor))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load benchmark: ours beside nginx, interleaved.")
    names = ",".join(subject.name for subject in all_subjects(None, str(ROOT)))
    parser.add_argument("--only", metavar="A,B", help=f"subjects to run, of {names}")
    parser.add_argument("--cases", metavar="A,B", default="http-1k,bulk", help="http-1k, bulk")
    parser.add_argument("--clients", metavar="N,N", default="8,64,512", help="for http-1k")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="per http-1k sample")
    parser.add_argument("--bulk-mib", type=int, default=1024, help="size of one download")
    parser.add_argument(
        "--streams", metavar="N,N", default="1,8", help="downloads at once, for bulk"
    )
    parser.add_argument(
        "--against", metavar="DIR", help="another checkout, built: the subject `against`"
    )
    parser.add_argument("--floor", metavar="FILE", help="C source of the floor program")
    parser.add_argument(
        "--congestion", metavar="NAME", help="the system's congestion control for the run (root)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when over a budget")
    parser.add_argument(
        "--smoke", action="store_true", help="does it all still run? one short round, no result"
    )
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.rounds, chosen.seconds, chosen.clients, chosen.bulk_mib = 1, 1.0, "8", 32
        chosen.streams = "8"
    unknown = set(chosen.cases.split(",")) - {"http-1k", "bulk"}
    unknown |= set((chosen.only or names).split(",")) - set(names.split(","))
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return chosen


def stolen_ticks() -> int:
    """Time the hypervisor gave to others: says which samples to distrust."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8])


@dataclass(frozen=True)
class Case:
    kind: str
    clients: int
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kind} c{self.clients}"


def chosen_cases(chosen: argparse.Namespace) -> list[Case]:
    cases: list[Case] = []
    for kind in chosen.cases.split(","):
        counts = chosen.streams if kind == "bulk" else chosen.clients
        cases.extend(Case(kind, int(count), chosen.seconds) for count in counts.split(","))
    return cases


def apply_load(endpoint: Endpoint, case: Case) -> tuple[float, dict[str, float]]:
    """Units of work done, in which CPU is counted, and what the client saw.

    Units are millions of requests, so CPU seconds become microseconds a request, or GB.
    """
    if case.kind == "bulk":
        bulk = download_together(endpoint, bulk_path(case.clients), case.clients)
        gigabytes = bulk.size / 1e9
        return gigabytes, {
            "rate": gigabytes * 8 / bulk.seconds,
            "cpu_client": bulk.cpu.total / gigabytes,
        }
    wrk = run_wrk(endpoint, case.clients, case.seconds)
    if wrk.errors or not wrk.requests:
        raise BenchmarkError(f"{wrk.requests} requests and {wrk.errors} errors")
    return wrk.requests / 1e6, {
        "rate": wrk.requests / wrk.seconds,
        "p50_us": wrk.p50_us,
        "p99_us": wrk.p99_us,
        "max_us": wrk.max_us,
        "cpu_client": wrk.cpu.total / (wrk.requests / 1e6),
    }


def measure(running: Running, origin: Origin, case: Case) -> dict[str, float]:
    processes = {**running.proxies, "origin": origin.process}
    before = {role: cpu_time(process.pid) for role, process in processes.items()}
    stolen = stolen_ticks()
    units, figures = apply_load(running.endpoint, case)
    figures["stolen_ticks"] = stolen_ticks() - stolen
    spent = {role: cpu_time(process.pid) - before[role] for role, process in processes.items()}
    proxies = sum((spent[role] for role in running.proxies), CpuTime())
    for role in ("server", "agent", "origin"):
        figures[f"cpu_{role}"] = spent.get(role, CpuTime()).total / units
    figures["cpu"] = proxies.total / units
    figures["cpu_user"] = proxies.user / units
    figures["cpu_of_ends"] = figures["cpu"] / (figures["cpu_client"] + figures["cpu_origin"])
    memory = sum(memory_kib(process.pid) for process in running.proxies.values())
    figures["memory_mib"] = memory / 1024
    return figures


def run_rounds(
    chosen: argparse.Namespace, subjects: dict[str, Running], origin: Origin
) -> list[report.Sample]:
    samples: list[report.Sample] = []
    cases, names = chosen_cases(chosen), list(subjects)
    for case in cases:
        for name in names:
            # First connections, first allocations and lazy imports are not the subject.
            measure(subjects[name], origin, replace(case, seconds=WARM_UP_SECONDS))
    for number in range(chosen.rounds):
        print(f"round {number + 1} of {chosen.rounds}", flush=True)
        for case in cases:
            for name in in_turn(names, number):
                try:
                    figures = measure(subjects[name], origin, case)
                except BenchmarkError as error:
                    raise BenchmarkError(f"{name}, {case.name}: {error}") from error
                samples.append(
                    {"round": number, "case": case.name, "subject": name, "figures": figures}
                )
    return samples


def benchmark(chosen: argparse.Namespace, folder: Path) -> list[report.Sample]:
    streams = [int(count) for count in chosen.streams.split(",")]
    origin = Origin(folder / "origin", chosen.bulk_mib << 20, streams)
    wanted = chosen.only.split(",") if chosen.only else None
    subjects: list[Subject] = []
    try:
        running = {}
        for subject in all_subjects(chosen.floor, chosen.against):
            if wanted is not None and subject.name not in wanted:
                continue
            reason = subject.unavailable()
            if reason is not None:
                print(f"{subject.name}: not run, {reason}")
                continue
            subjects.append(subject)
            running[subject.name] = subject.start(folder / subject.name, origin.port)
        if not running:
            raise BenchmarkError("nothing to run")
        return run_rounds(chosen, running, origin)
    finally:
        # Agents before their servers, proxies before the origin.
        for subject in subjects:
            for process in reversed(subject.started):
                process.stop()
        origin.process.stop()


def main() -> int:
    chosen = arguments()
    missing = [name for name in ("wrk",) if shutil.which(name) is None]
    missing += [] if nginx_path() else ["nginx"]
    if missing:
        print(f"{' and '.join(missing)} not found: apt-get install nginx-light wrk")
        return EXIT_USAGE
    started = datetime.now(UTC)
    result: dict[str, Any] = {"started": started.isoformat(timespec="seconds")}
    result |= {"versions": report.versions(), "settings": vars(chosen)}
    with tempfile.TemporaryDirectory(prefix="proxy-engine-load-") as folder:
        try:
            with congestion_control(chosen.congestion):
                result["machine"] = report.machine()
                samples = benchmark(chosen, Path(folder))
        except BenchmarkError as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    result |= {"summary": report.summarise(samples), "samples": samples}
    print(report.table(samples))
    if not chosen.smoke:
        name = f"{started:%Y%m%dT%H%M%S}-{report.versions()['commit'][:9] or 'nocommit'}"
        print(f"\nmedian [least-most]; raw samples: {report.write(RESULTS, name, result)}")
    over = report.over_budget(samples) if chosen.check else []
    for line in over:
        print(f"over budget: {line}", file=sys.stderr)
    return EXIT_FAILED if over else 0


if __name__ == "__main__":
    sys.exit(main())
