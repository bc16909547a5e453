"""The micro benchmarks, run by pytest-benchmark, as samples."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.counted import count
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.samples import Sample
from benchmarks.parts.subjects import ROOT


def samples_of(report: dict[str, Any]) -> list[Sample]:
    """From pytest-benchmark's JSON: a round is one of its, `ns` one call, the rest its extras."""
    found = []
    for each in report["benchmarks"]:
        scenario = "micro-" + Path(each["fullname"].partition("::")[0]).stem.removeprefix("test_")
        subject = each["name"].removeprefix("test_")
        extra = {k: float(v) for k, v in each["extra_info"].items() if isinstance(v, int | float)}
        figures = {"ns": each["stats"]["min"] * 1e9, **extra}
        found.append(Sample(scenario, subject, 0, figures))
    return found


# Of each benchmark: the least of its rounds is what counts, and that is found soon.
SHORT = ("--benchmark-max-time=0.3", "--benchmark-min-rounds=3")


def counts(say: Callable[[str], None]) -> list[Sample]:
    """Instructions of a request, where they can be counted; else it is said why not."""
    reason = count.unavailable()
    if reason is not None:
        say(f"{count.SCENARIO}: {reason}")
        return []
    say(f"{count.SCENARIO}: callgrind counts what a request executes")
    try:
        found = count.measure(["single", "sixteen", "sixteen-ws"])
    except BenchmarkError as error:
        say(f"{count.SCENARIO}: {error}")
        return []
    return [Sample(count.SCENARIO, subject, 0, figures) for subject, figures in found.items()]


def run(say: Callable[[str], None], *arguments: str) -> tuple[int, list[Sample]]:
    """pytest's exit code, and what was measured."""
    say("micro: benchmarks/micro by pytest-benchmark")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--benchmark-json", file.name, *SHORT,
             "--benchmark-columns=min,median,rounds", *(arguments or ("benchmarks/micro",))],
            cwd=ROOT, check=False,
        )  # fmt: skip
        text = Path(file.name).read_text()
    return done.returncode, samples_of(json.loads(text)) if text else []
