"""Samples as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.load.run import CLIENT_BUSY
from benchmarks.parts.samples import Sample, Spread, figure, ratio, subjects_of, summary
from benchmarks.scenarios import BY_NAME, Program, Scenario


def cell(found: Spread | None, digits: int) -> str:
    if found is None:
        return "-"
    median, least, most = (f"{value:,.{digits}f}" for value in found)
    return f"{median} [{least}-{most}]"


def _load_table(scenario: Scenario, samples: Sequence[Sample]) -> list[str]:
    is_bulk = scenario.unit == "GB"
    cost = "CPU s/GB" if is_bulk else f"CPU us/{scenario.unit}"
    rate = "Gbit/s" if is_bulk else f"{scenario.unit}s/s"
    digits = 3 if is_bulk else 1
    heads = (rate, cost, "server", "agent", "p50 us", "p99 us", "MiB", f"of {scenario.reference}")
    widths = (30, 24, 8, 8, 9, 10, 7, 20)
    line = "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    lines = [f"\n{scenario.name}: {scenario.what}", f"  {'':20}{line}"]
    for subject in subjects_of(samples, scenario.name):

        def median(name: str, digits: int, subject: str = subject) -> str:
            found = figure(samples, scenario.name, subject, name)
            return "-" if found is None else f"{found.median:,.{digits}f}"

        cells = (
            cell(figure(samples, scenario.name, subject, "rate"), 1 if is_bulk else 0),
            cell(figure(samples, scenario.name, subject, "cost"), digits),
            median("cost_server", digits),
            median("cost_agent", digits),
            median("p50_us", 0),
            median("p99_us", 0),
            median("pss_mib", 1),
            cell(ratio(samples, scenario.name, subject, scenario.reference, "cost"), 2),
        )
        text = "".join(f"{each:>{width}}" for each, width in zip(cells, widths, strict=True))
        lines.append(f"  {subject:20}{text}{limits(samples, scenario.name, subject)}")
    return lines


def limits(samples: Sequence[Sample], scenario: str, subject: str) -> str:
    """A note where something else than the subject may have set the rate."""
    client = figure(samples, scenario, subject, "client_busy")
    if client is not None and client.median >= CLIENT_BUSY:
        return f"   the client is at its limit ({client.median:.0%} of a CPU)"
    return ""


def _plain_table(name: str, samples: Sequence[Sample]) -> list[str]:
    lines = [f"\n{name}: {BY_NAME[name].what}" if name in BY_NAME else f"\n{name}"]
    for subject, figures in summary(samples).get(name, {}).items():
        for called, found in figures.items():
            digits = 0 if abs(found.median) >= 1000 else 1 if abs(found.median) >= 10 else 3
            lines.append(f"  {subject:28}{called:28}{cell(found, digits):>36}")
    return lines


def tables(samples: Sequence[Sample]) -> str:
    lines: list[str] = []
    for name in dict.fromkeys(each.scenario for each in samples):
        scenario = BY_NAME.get(name)
        has_cost = any(each.scenario == name and "cost" in each.figures for each in samples)
        if scenario is None or isinstance(scenario, Program) or not has_cost:
            lines += _plain_table(name, samples)
        elif name.startswith("syscalls"):
            lines += _plain_table(name, [_only_calls(e) for e in samples if e.scenario == name])
        else:
            lines += _load_table(scenario, samples)
    return "\n".join(lines)


def _only_calls(sample: Sample) -> Sample:
    figures = {name: value for name, value in sample.figures.items() if name.startswith("calls")}
    return Sample(sample.scenario, sample.subject, sample.round, figures)
