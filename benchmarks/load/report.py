"""From raw samples to medians, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.load.subjects import ROOT, nginx_path

# CPU per request of server and agent together, over that of two chained nginx in the
# same run; benchmarks/README.md has the reasons.
REFERENCE = "nginx-chain"
OURS = "proxy-engine-tcp"
BUDGETS = {"http-1k c8": 0.65, "http-1k c64": 0.55, "http-1k c512": 0.35}
# CPU s per GB and Gbit/s; with a congestion control that does not pace on loopback (reno).
BULK_CPU_BUDGET, BULK_RATE_BUDGET = 0.60, 13.0

Sample = dict[str, Any]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
    except OSError:
        return ""
    # wrk and nginx print their versions on stderr or exit with 1; git's errors are no commit.
    if done.returncode and command[0] == "git":
        return ""
    return (done.stdout or done.stderr).strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    model = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        # The same for every subject unless it sets its own; it decides bulk on loopback.
        "tcp_congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


def versions() -> dict[str, str]:
    return {
        "commit": _output("git", "rev-parse", "HEAD"),
        "uncommitted": "yes" if _output("git", "status", "--porcelain") else "no",
        "python": platform.python_version(),
        "nginx": _output(nginx_path() or "nginx", "-v").rpartition("/")[2],
        "wrk": (_output("wrk", "-v").split() or ["", ""])[1],
        "argv": " ".join(sys.argv),
    }


def median_range(values: Iterable[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]


def summarise(samples: list[Sample]) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """case -> subject -> figure -> (median, least, most)."""
    grouped: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        grouped.setdefault(sample["case"], {}).setdefault(sample["subject"], []).append(sample)
    return {
        case: {
            subject: {
                figure: median_range(each["figures"][figure] for each in group)
                for figure in group[0]["figures"]
            }
            for subject, group in subjects.items()
        }
        for case, subjects in grouped.items()
    }


def ratios(samples: list[Sample], case: str, subject: str) -> tuple[float, float, float] | None:
    """CPU price over the reference's, round by round: what both suffered cancels out."""
    price: dict[tuple[str, int], float] = {
        (sample["subject"], sample["round"]): sample["figures"]["cpu"]
        for sample in samples
        if sample["case"] == case
    }
    found = [
        price[subject, number] / price[REFERENCE, number]
        for name, number in price
        if name == subject and price.get((REFERENCE, number))
    ]
    return median_range(found) if found else None


def _cell(figures: tuple[float, ...], digits: int) -> str:
    median, least, most = (f"{value:,.{digits}f}" for value in figures)
    return f"{median} [{least}-{most}]"


def table(samples: list[Sample]) -> str:
    lines = []
    for case, subjects in summarise(samples).items():
        bulk = case.startswith("bulk")
        rate, price = ("Gbit/s", "CPU s/GB") if bulk else ("req/s", "CPU us/req")
        digits = 2 if bulk else 1
        latency = "" if bulk else f"{'p50 us':>8}{'p99 us':>9}"
        lines.append(f"\n{case}")
        lines.append(
            f"  {'':18}{rate:>26}{price:>21}{'server':>8}{'agent':>8}{latency}{'MiB':>7}"
            f"{'of ends':>9}{'of ' + REFERENCE:>20}"
        )
        for subject, figures in subjects.items():
            cells = f"  {subject:18}{_cell(figures['rate'], digits if bulk else 0):>26}"
            if subject == "direct":
                cells += f"{'-':>21}{'-':>8}{'-':>8}"
            else:
                cells += f"{_cell(figures['cpu'], digits):>21}"
                for role in ("cpu_server", "cpu_agent"):
                    cells += f"{figures[role][0]:>8.{digits}f}"
            if not bulk:
                cells += f"{figures['p50_us'][0]:>8,.0f}{figures['p99_us'][0]:>9,.0f}"
            cells += f"{figures['memory_mib'][0]:>7.1f}{figures['cpu_of_ends'][0]:>9.2f}"
            found = ratios(samples, case, subject) if subject != "direct" else None
            cells += f"{_cell(found, 2) if found else '-':>20}"
            lines.append(cells)
        budget, found = BUDGETS.get(case), ratios(samples, case, OURS)
        if budget is not None and found:
            verdict = "within" if found[0] <= budget else "OVER"
            lines.append(f"  {OURS}: {found[0]:.2f} of {REFERENCE}, {verdict} budget {budget:.2f}")
        if bulk and OURS in subjects:
            cpu, rate_now = subjects[OURS]["cpu"][0], subjects[OURS]["rate"][0]
            is_within = cpu <= BULK_CPU_BUDGET and rate_now >= BULK_RATE_BUDGET
            lines.append(
                f"  {OURS}: {cpu:.2f} CPU s/GB and {rate_now:.1f} Gbit/s,"
                f" {'within' if is_within else 'OVER'} budget {BULK_CPU_BUDGET:.2f}"
                f" and {BULK_RATE_BUDGET:.0f}"
            )
    return "\n".join(lines)


def over_budget(samples: list[Sample]) -> list[str]:
    over = []
    for case, budget in BUDGETS.items():
        found = ratios(samples, case, OURS)
        if found and found[0] > budget:
            over.append(f"{case}: {found[0]:.2f} > {budget:.2f}")
    return over


def write(folder: Path, name: str, result: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
