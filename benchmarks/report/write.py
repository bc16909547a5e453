"""`scripts/bench report`: puts what was measured between the marks in docs/performance.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.parts import results
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.samples import Sample
from benchmarks.parts.subjects import ROOT
from benchmarks.report.losses import causes, losses
from benchmarks.report.page import page, plots

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- measured: written by scripts/bench report -->"
END = "<!-- end of measured -->"
VERBS = ("load", "peers", "micro")


def newest(folder: Path) -> list[Path]:
    """The last result of each verb; their names begin with the time."""
    found = []
    for verb in VERBS:
        of_verb = sorted(folder.glob(f"*-{verb}-*.json"))
        found += of_verb[-1:]
    return found


def between_marks(text: str, measured: str) -> str:
    """Raises: BenchmarkError where the marks are not there once each, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BenchmarkError(f"the page wants one {BEGIN} and behind it one {END}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n\n{measured.rstrip()}\n\n{END}{after}"


def main(paths: Sequence[Path], out: Path | None) -> int:
    """Raises: BenchmarkError."""
    chosen = list(paths) or newest(results.RESULTS)
    if not chosen:
        raise BenchmarkError(f"no results in {results.RESULTS}: scripts/bench all --quick")
    heads, samples = [], list[Sample]()
    for path in chosen:
        try:
            head, found = results.read(path)
        except (OSError, ValueError) as error:
            raise BenchmarkError(str(error)) from None
        heads.append(head)
        samples += found
    target = out or PAGE
    text = (target if target.exists() else PAGE).read_text()
    made = between_marks(text, page(heads, samples, losses(samples, causes())))
    folder = target.parent / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.svg"):
        stale.unlink()
    for name, drawn in plots(samples).items():
        (folder / f"{name}.svg").write_text(drawn)
    target.write_text(made)
    commits = {head["versions"].get("commit", "?") for head in heads}
    if len(commits) > 1:
        print("these results are of different commits", file=sys.stderr)
    print(f"{target} and {len(plots(samples))} plots, from {', '.join(p.name for p in chosen)}")
    return 0
