"""Targets and verdicts: what targets.toml says, and what a measurement means by it. Pure.

Of the attempts at a target the best counts: chance makes a figure worse by a third on a shared
machine and hardly ever better, and a program that got slower is slower in every attempt. A ratio
is allowed the noise of its own run: what the reference, which did not change, varied by between
rounds. On a quiet machine that is less than the target's margin, and the margin holds.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from benchmarks.parts.samples import Sample, figure, ratio

TARGETS = Path(__file__).with_name("targets.toml")
BASELINE = Path(__file__).with_name("baseline.json")
MARGIN = 0.15
REGRESSION = 0.15  # worse than the recorded baseline by more than this is a miss
NOISE_MAX = 0.5  # a machine noisier than that still holds this


class Attempt(NamedTuple):
    value: float
    noise: float = 0.0  # share of it that the machine may have added


@dataclass(frozen=True)
class Target:
    name: str
    what: str
    budget: float
    scenario: str = ""
    subject: str = ""
    figure: str = ""
    of: str = ""
    more: bool = False
    held: float | None = None
    margin: float = MARGIN
    baseline: bool = False
    informational: bool = False
    held_by: str = ""
    pending: str = ""

    @property
    def is_open(self) -> bool:
        return self.held is not None

    @property
    def is_measured(self) -> bool:
        return not (self.held_by or self.pending)

    def limit(self, base: float, margin: float) -> float:
        """Beyond this it is a miss."""
        return base / (1 + margin) if self.more else base * (1 + margin)

    def is_worse(self, value: float, than: float) -> bool:
        return value < than if self.more else value > than

    def best(self, attempts: Sequence[Attempt]) -> Attempt | None:
        if not attempts:
            return None
        return (max if self.more else min)(attempts, key=lambda each: each.value)

    def is_missed(self, attempts: Sequence[Attempt]) -> bool:
        """By every attempt, each with the noise of its run."""
        base = self.budget if self.held is None else self.held
        return all(
            self.is_worse(each.value, self.limit(base, max(self.margin, each.noise)))
            for each in attempts
        )

    def is_slower(self, attempts: Sequence[Attempt], recorded: float) -> bool:
        return all(
            self.is_worse(each.value, self.limit(recorded, max(REGRESSION, each.noise)))
            for each in attempts
        )

    def attempt(self, samples: Sequence[Sample]) -> Attempt | None:
        """The median over its rounds. None where it was not measured."""
        if not self.of:
            found = figure(samples, self.scenario, self.subject, self.figure)
            return None if found is None else Attempt(found.median)
        found = ratio(samples, self.scenario, self.subject, self.of, self.figure)
        reference = figure(samples, self.scenario, self.of, self.figure)
        if found is None or reference is None:
            return None
        return Attempt(found.median, min(NOISE_MAX, reference.share))


@dataclass(frozen=True)
class Verdict:
    target: Target
    measured: float | None
    word: str
    is_miss: bool = False


def load(path: Path = TARGETS) -> list[Target]:
    """Raises: ValueError for an unknown key, a name that is there twice, a row that lacks one."""
    known = {each.name for each in fields(Target)}
    found: list[Target] = []
    for row in tomllib.loads(path.read_text())["target"]:
        name = row.get("name", "a target without a name")
        if set(row) - known:
            raise ValueError(f"{name}: unknown: {', '.join(sorted(set(row) - known))}")
        try:
            target = Target(**row)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from None
        if any(each.name == target.name for each in found):
            raise ValueError(f"{name} is there twice")
        if target.is_measured and not (target.scenario and target.subject and target.figure):
            raise ValueError(f"{name}: a scenario, a subject and a figure, held_by, or pending")
        found.append(target)
    return found


def read_baseline(compiler: str, path: Path = BASELINE) -> dict[str, float]:
    """Recorded figures by target; instructions only as the same compiler made them."""
    if not path.exists():
        return {}
    recorded = json.loads(path.read_text())
    figures: dict[str, float] = dict(recorded["figures"])
    if recorded["compiler"] != compiler:
        figures = {name: value for name, value in figures.items() if not name.startswith("code-")}
    return figures


def judge(target: Target, attempts: Sequence[Attempt], baseline: Mapping[str, float]) -> Verdict:
    if target.held_by:
        return Verdict(target, None, f"held by {target.held_by}")
    if target.pending:
        return Verdict(target, None, f"not measured: {target.pending}")
    best = target.best(attempts)
    if best is None:
        return Verdict(target, None, "not measured here")
    measured = best.value
    is_met = not target.is_worse(measured, target.budget)
    if target.informational:
        return Verdict(target, measured, f"{'met' if is_met else 'not met'} (informational)")
    if target.is_missed(attempts):
        return Verdict(target, measured, "MISSED", is_miss=True)
    recorded = baseline.get(target.name) if target.baseline else None
    if recorded is not None and target.is_slower(attempts, recorded):
        return Verdict(target, measured, f"SLOWER than {recorded:,.4g} recorded", is_miss=True)
    if is_met:
        return Verdict(target, measured, "met, still listed as open" if target.is_open else "met")
    return Verdict(target, measured, "open" if target.is_open else "met within the noise")


def table(verdicts: Sequence[Verdict]) -> str:
    lines = [f"{'target':22}{'budget':>10}{'held':>10}{'measured':>12}   verdict"]
    for verdict in verdicts:
        target = verdict.target
        sign = "≥" if target.more else "≤"
        held = "" if target.held is None else f"{target.held:,.4g}"
        measured = "-" if verdict.measured is None else f"{verdict.measured:,.4g}"
        lines.append(
            f"{target.name:22}{f'{sign} {target.budget:,.6g}':>10}{held:>10}{measured:>12}"
            f"   {verdict.word:32} {target.what}"
        )
    return "\n".join(lines)
