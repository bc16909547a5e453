"""Instructions of a request in our own code, counted by callgrind: the figure that holds still.

Counted is all that the two worker threads execute in user space, libc's part for them included,
and nothing of the kernel, of Python or of another process: neither the machine nor its load is in
it. What a second run finds otherwise is how many requests a turn of the loop had, a few percent.
Compilers change it, so a recorded count is good for the compiler that it was recorded with.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.results import output_of
from benchmarks.parts.samples import Figures
from benchmarks.parts.subjects import ROOT, Origin, nginx_path

SCENARIO = "instructions"
TIMEOUT = 180.0  # of one run; five seconds on a machine that is idle
SERVER_THREAD, AGENT_THREAD = 2, 3  # as the driver starts them
BYTES = 10_000_000  # of a download
# A `rep movsb` counts once for every byte, the vector loop that memcpy has beside it for 32.
TUNABLES = {"GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff"}


@dataclass(frozen=True)
class Count:
    """What the driver does, and how often: units are requests, or MB."""

    carrier: str
    work: str
    count: int
    units: int


COUNTS = {
    "single": Count("raw", "single", 300, 300),
    "sixteen": Count("raw", "requests", 60, 60 * 16),
    "sixteen-ws": Count("websocket", "requests", 60, 60 * 16),
    "mb": Count("raw", "bulk", 3, 3 * BYTES // 1_000_000),
}


def unavailable() -> str | None:
    if shutil.which("valgrind") is None:
        return "valgrind is not installed: apt-get install valgrind"
    if nginx_path() is None:
        return "nginx is not installed: apt-get install nginx-light"
    return None


def compiler_version() -> str:
    return output_of(os.environ.get("CC", "cc").split()[-1], "-dumpfullversion")


def totals(folder: Path) -> dict[int, int]:
    """thread -> instructions, of the files that callgrind left."""
    found = {}
    for path in folder.glob("counts-*"):
        text = path.read_text(errors="replace")
        thread = re.search(r"^thread: (\d+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
        if thread and total:
            found[int(thread[1])] = int(total[1])
    return found


def _run(root: Path, origin: int, count: Count, times: int) -> dict[int, int]:
    with tempfile.TemporaryDirectory(prefix="proxy-engine-counts-") as name:
        folder = Path(name)
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes",
                   f"--callgrind-out-file={folder / 'counts'}", sys.executable,
                   str(Path(__file__).with_name("driver.py")), str(origin), count.carrier,
                   count.work, str(times)]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT,
                env={**os.environ, **TUNABLES, "PYTHONPATH": str(root / "engine")},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"counting was not done after {TIMEOUT:.0f} s") from None
        found = totals(folder)
    if done.returncode != 0 or not {SERVER_THREAD, AGENT_THREAD} <= set(found):
        last = (done.stderr.strip() or "no output").splitlines()
        said = [line for line in last if not line.startswith("==")] or last
        raise BenchmarkError(f"the driver failed under valgrind: {said[-1]}")
    return found


def differences(
    base: Mapping[int, int], with_work: Mapping[int, int], units: int
) -> dict[str, float]:
    roles = {"server": SERVER_THREAD, "agent": AGENT_THREAD}
    found = {role: (with_work[at] - base[at]) / units for role, at in roles.items()}
    return {**found, "both": sum(found.values())}


def measure(names: list[str] | None = None, root: Path = ROOT) -> dict[str, Figures]:
    """name of COUNTS -> instructions a unit, of the server, the agent, and both.

    root: the tree whose engine is counted, built in place. Raises: BenchmarkError.
    """
    found: dict[str, Figures] = {}
    bases: dict[str, dict[int, int]] = {}
    with tempfile.TemporaryDirectory(prefix="proxy-engine-count-") as name:
        origin = Origin(Path(name) / "origin", 0, [])
        try:
            for called in names or COUNTS:
                count = COUNTS[called]
                if count.carrier not in bases:
                    bases[count.carrier] = _run(root, origin.port, count, 0)
                counted = _run(root, origin.port, count, count.count)
                found[called] = differences(bases[count.carrier], counted, count.units)
        finally:
            origin.process.stop()
    return found


if __name__ == "__main__":
    for which, figures in measure().items():
        print(which, {role: round(value) for role, value in figures.items()})
