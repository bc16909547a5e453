"""The arithmetic of a benchmark: samples, medians, spread, and ratios within a round. Pure.

A sample is what one measurement of one subject in one round said. Two subjects are compared
round by round, because what a shared machine does to one minute it does to both; the median
of those ratios is the figure, and how far they lie apart is its spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

Figures = dict[str, float]


@dataclass(frozen=True)
class Sample:
    scenario: str
    subject: str
    round: int
    figures: Figures

    def record(self) -> dict[str, Any]:
        return asdict(self)


class Spread(NamedTuple):
    median: float
    least: float
    most: float

    @property
    def share(self) -> float:
        """How far apart least and most are, of the median."""
        return (self.most - self.least) / self.median if self.median else 0.0


def spread(values: Iterable[float]) -> Spread:
    """Raises: ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples")
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of them do not exceed."""
    if not values:
        raise ValueError("no samples")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def subjects_of(samples: Iterable[Sample], scenario: str) -> list[str]:
    """In the order they were first measured."""
    return list(dict.fromkeys(each.subject for each in samples if each.scenario == scenario))


def figure(samples: Iterable[Sample], scenario: str, subject: str, name: str) -> Spread | None:
    """None where it was not measured."""
    found = [
        each.figures[name]
        for each in samples
        if each.scenario == scenario and each.subject == subject and name in each.figures
    ]
    return spread(found) if found else None


def ratio(
    samples: Iterable[Sample], scenario: str, subject: str, reference: str, name: str
) -> Spread | None:
    """`name` of the subject over that of the reference, round by round."""
    by_round: dict[tuple[str, int], float] = {
        (each.subject, each.round): each.figures[name]
        for each in samples
        if each.scenario == scenario and name in each.figures
    }
    found = [
        value / by_round[reference, number]
        for (who, number), value in by_round.items()
        if who == subject and by_round.get((reference, number))
    ]
    return spread(found) if found else None


def summary(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, Spread]]]:
    """scenario -> subject -> figure -> spread."""
    found: dict[str, dict[str, dict[str, Spread]]] = {}
    for scenario in dict.fromkeys(each.scenario for each in samples):
        for subject in subjects_of(samples, scenario):
            group = [e for e in samples if e.scenario == scenario and e.subject == subject]
            names = dict.fromkeys(name for each in group for name in each.figures)
            found.setdefault(scenario, {})[subject] = {
                name: spread(e.figures[name] for e in group if name in e.figures) for name in names
            }
    return found
