"""Where we lose: found in the samples, never left out by hand; the causes are causes.toml's."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from benchmarks.parts.samples import Sample, figure, ratio, subjects_of
from benchmarks.scenarios import BY_NAME, Scenario

CAUSES = Path(__file__).with_name("causes.toml")
UNKNOWN = "not explained yet"
BY_CHANCE = 1.05  # less than this is not told apart from nothing
# What is compared, what it is called, and whether more is better.
FIGURES = (
    ("cost", "CPU", False),
    ("rate", "rate", True),
    ("p99_us", "p99", False),
    ("pss_mib", "memory", False),
)
# No proxy at all, and one hop where ours has two: bounds, not rivals.
BOUNDS = ("direct", "nginx", "haproxy", "aiohttp", "floor", "against")


class Loss(NamedTuple):
    scenario: str
    figure: str  # the name for people
    ours: str
    to: str
    times: float  # how much worse
    least: float  # ... in the round that was kindest to us
    cause: str


def causes(path: Path = CAUSES) -> list[tuple[str, str, str, str]]:
    """(scenario, figure, to, cause), with `*` in any but the last."""
    rows = tomllib.loads(path.read_text())["cause"]
    return [(row["scenario"], row["figure"], row["to"], row["why"]) for row in rows]


def losses(samples: Sequence[Sample], known: Sequence[tuple[str, str, str, str]]) -> list[Loss]:
    """Of the best of ours in each scenario, to each subject that is better, worst first."""
    found = []
    for name in dict.fromkeys(each.scenario for each in samples):
        if not isinstance(BY_NAME.get(name), Scenario):
            continue
        subjects = subjects_of(samples, name)
        for key, called, is_more in FIGURES:
            ours = _best(samples, name, key, is_more, subjects)
            if ours is None:
                continue
            for other in subjects:
                if other.startswith("proxy-engine") or other in BOUNDS:
                    continue
                pair = (other, ours) if is_more else (ours, other)
                worse = ratio(samples, name, *pair, key)
                if worse is not None and worse.median > BY_CHANCE:
                    why = _cause(known, name, called, other)
                    found.append(Loss(name, called, ours, other, worse.median, worse.least, why))
    return sorted(found, key=lambda loss: -loss.times)


def _best(
    samples: Sequence[Sample], name: str, key: str, is_more: bool, subjects: Sequence[str]
) -> str | None:
    medians = {}
    for subject in subjects:
        spread = figure(samples, name, subject, key)
        if subject.startswith("proxy-engine") and spread is not None:
            medians[subject] = spread.median
    if not medians:
        return None
    return (max if is_more else min)(medians, key=medians.__getitem__)


def _cause(known: Sequence[tuple[str, str, str, str]], name: str, called: str, to: str) -> str:
    for scenario, figure_name, other, why in known:
        if all(
            fnmatchcase(value, pattern)
            for value, pattern in ((name, scenario), (called, figure_name), (to, other))
        ):
            return why
    return UNKNOWN


class Group(NamedTuple):
    """Losses to the same subject in the same figure for the same cause."""

    figure: str
    to: str
    cause: str
    losses: list[Loss]


def grouped(found: Sequence[Loss]) -> list[Group]:
    """What nobody has explained comes first, then the worst."""
    groups: dict[tuple[str, str, str], list[Loss]] = {}
    for each in found:
        groups.setdefault((each.figure, each.to, each.cause), []).append(each)
    made = [Group(*key, losses) for key, losses in groups.items()]
    return sorted(made, key=lambda group: (group.cause != UNKNOWN, -group.losses[0].times))
