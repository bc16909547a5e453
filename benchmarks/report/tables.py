"""The report's tables, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.load.run import CLIENT_BUSY
from benchmarks.load.stage import OURS
from benchmarks.parts.samples import Sample, Spread, figure, ratio, subjects_of, summary
from benchmarks.report import svg
from benchmarks.report.losses import Loss, grouped
from benchmarks.scenarios import ALL, Program, Scenario

SHOWN = 4  # losses of a group that are spelled out
COLUMNS_MAX = 9  # of a wide table
# In the names of figures.
WORDS = {"kib": "KiB", "mib": "MiB", "gb": "GB", "mb": "MB", "cpu": "CPU", "rss": "RSS"}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(found: Spread | None) -> str:
    if found is None:
        return "-"
    median, least, most = map(svg.number, found)
    return median if least == most else f"{median} [{least}-{most}]"


def called(name: str) -> str:
    """A figure's name for people."""
    return " ".join(WORDS.get(word, word) for word in name.split("_"))


def marked(subject: str) -> str:
    return f"**{subject}**" if subject.startswith(OURS) else subject


def load_table(samples: Sequence[Sample], scenario: Scenario) -> str:
    is_bulk = scenario.unit == "GB"
    columns = {
        "Gbit/s" if is_bulk else f"{scenario.unit}s/s": "rate",
        "CPU s/GB" if is_bulk else f"CPU us/{scenario.unit}": "cost",
        f"of {scenario.reference}": "",
        "p50 us": "p50_us",
        "p99 us": "p99_us",
        "MiB": "pss_mib",
        "KiB a connection": "kib_a_connection",
    }
    rows = []
    for subject in subjects_of(samples, scenario.name):
        share = ratio(samples, scenario.name, subject, scenario.reference, "cost")
        busy = figure(samples, scenario.name, subject, "client_busy")
        row = [marked(subject)]
        for key in columns.values():
            found = figure(samples, scenario.name, subject, key) if key else share
            if key in ("rate", "cost"):
                row.append(cell(found))
            elif found is None:
                row.append("-")
            else:
                row.append(svg.number(found.median) if key else f"{found.median:.2f}")
        if busy is not None and busy.median >= CLIENT_BUSY:
            row[1] += " ¹"
        rows.append(row)
    return _without_empty(["", *columns], rows)


def _without_empty(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [at for at in range(len(heads)) if at == 0 or any(row[at] != "-" for row in rows)]
    return table([heads[at] for at in kept], [[row[at] for at in kept] for row in rows])


def plain_table(samples: Sequence[Sample], name: str) -> str:
    """A column for each figure; where they are many, or of one subject only, a row for each."""
    found = {}
    for subject, figures in summary(samples)[name].items():
        if name.startswith("syscalls"):
            figures = {key: value for key, value in figures.items() if key.startswith("calls")}
        elif name.startswith("micro-"):
            figures = {key: value for key, value in figures.items() if key != "bytes"}
            if len(figures) > 1:  # `ns` is of a call of many, and what one of them takes beside it
                del figures["ns"]
        found[subject] = figures
    names = list(dict.fromkeys(key for figures in found.values() for key in figures))
    if len(found) == 1 or len(names) > COLUMNS_MAX:
        rows = [
            [marked(subject), called(key), cell(value)]
            for subject, figures in found.items()
            for key, value in figures.items()
        ]
        return table(["", "figure", ""], rows)
    rows = [
        [marked(subject), *(cell(figures.get(key)) for key in names)]
        for subject, figures in found.items()
    ]
    return table(["", *map(called, names)], rows)


def losses_table(losses: Sequence[Loss]) -> str:
    if not losses:
        return "Nowhere in what was measured.\n"
    rows = []
    for group in grouped(losses):
        spelled = [_loss(each) for each in group.losses[:SHOWN]]
        rest = group.losses[SHOWN:]
        if rest:
            spelled.append(
                f"and {len(rest)} more, {rest[-1].times:.2f} to {rest[0].times:.2f} times"
            )
        rows.append([group.figure, "; ".join(spelled), group.cause])
    return table(["what", "where: ours beside theirs", "why"], rows)


def _loss(loss: Loss) -> str:
    ours = "" if loss.ours == OURS else f" ({loss.ours.removeprefix(OURS).strip(' -')})"
    text = (
        f"{loss.scenario}{ours}: {svg.number(loss.mine)} beside {svg.number(loss.theirs)} of"
        f" {loss.to}"
    )
    if loss.figure == "p99" and loss.direct is not None:
        text += f", with no proxy {svg.number(loss.direct)}"
    return text if loss.least > 1 else f"{text} (not in every round)"


def scenario_sections(samples: Sequence[Sample]) -> str:
    measured = set(dict.fromkeys(each.scenario for each in samples))
    parts = []
    for each in ALL:
        if each.name not in measured:
            continue
        parts.append(f"#### {each.name}: {each.what}\n")
        if isinstance(each, Program) or each.name.startswith("syscalls"):
            parts.append(plain_table(samples, each.name))
        else:
            parts.append(load_table(samples, each))
    alone = sorted(name for name in measured if re.match("micro-|instructions", name))
    if alone:
        parts.append("### Code alone\n")
    for name in alone:
        parts.append(f"#### {name.removeprefix('micro-')}\n")
        parts.append(plain_table(samples, name))
    return "\n".join(parts)
