"""A run on disk: machine, versions, commit, commands and every raw sample, as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts.samples import Sample, summary
from benchmarks.parts.subjects import ROOT, haproxy_path, nginx_path

RESULTS = ROOT / "benchmarks" / "results" / "local"


def output_of(*command: str) -> str:
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
        # What else ran. A load average would still tell of the build just before.
        "busy_cpus": busy_cpus(),
    }


def busy_cpus(seconds: float = 1.0) -> float:
    """CPUs in use, by anybody, for so long from now; 0 to their number."""
    before = _idle_ticks()
    time.sleep(seconds)
    idle = (_idle_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
    return max(0.0, (os.cpu_count() or 1) - idle)


def _idle_ticks() -> int:
    # "cpu user nice system idle iowait ..." of all CPUs: proc_stat(5)
    fields = _read("/proc/stat").split()[:6]
    return sum(map(int, fields[4:]))


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def versions() -> dict[str, str]:
    found = {
        "commit": output_of("git", "rev-parse", "HEAD"),
        "uncommitted": "yes" if output_of("git", "status", "--porcelain") else "no",
        "python": platform.python_version(),
        "compiler": output_of("cc", "--version").partition("\n")[0],
        "nginx": output_of(nginx_path() or "nginx", "-v").rpartition("/")[2],
        "haproxy": _first(r"version (\S+)", output_of(haproxy_path() or "haproxy", "-v")),
        "wrk": (output_of("wrk", "-v").split() or ["", ""])[1],
        "iperf3": _first(r"iperf (\S+)", output_of("iperf3", "--version")),
        "argv": " ".join(["scripts/bench", *sys.argv[1:]]),
    }
    return {name: value for name, value in found.items() if value}


def commit() -> str:
    return output_of("git", "rev-parse", "--short=9", "HEAD") or "nocommit"


def newest(verb: str, pace: str, folder: Path = RESULTS) -> Path | None:
    """Of this commit: what --resume goes on with."""
    for path in sorted(folder.glob(f"*-{verb}-{commit()}.json"), reverse=True):
        if read(path)[0]["pace"] == pace:
            return path
    return None


def write(path: Path, head: dict[str, Any], samples: Sequence[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {**head, "summary": summary(samples), "samples": [each.record() for each in samples]}
    # Whole or not at all: it is written again after every scenario.
    made = path.with_suffix(".new")
    made.write_text(json.dumps(result, indent=1) + "\n")
    made.replace(path)


def read(path: Path) -> tuple[dict[str, Any], list[Sample]]:
    """Raises: ValueError for what is not a result."""
    try:
        result = json.loads(path.read_text())
        return result, [Sample(**each) for each in result.pop("samples")]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no result of a benchmark: {error!r}") from None


def emit(path: str | None, scenario: str, subject: str, rounds: Iterable[dict[str, float]]) -> None:
    """Add to the file a program was given by --json; a program of its own prints for people."""
    if path is None:
        return
    with Path(path).open("a") as file:
        for number, figures in enumerate(rounds):
            print(json.dumps(Sample(scenario, subject, number, figures).record()), file=file)
