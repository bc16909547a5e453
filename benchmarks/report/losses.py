"""Where we lose: found in the samples, never left out by hand; the causes are causes.toml's."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from benchmarks.load.stage import OURS
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
MEMORY = ("kib_a_connection", "memory a connection", False)
# No proxy at all, and one hop where ours has two: bounds, not rivals.
BOUNDS = ("direct", "nginx", "haproxy", "aiohttp", "floor", "against", "bare-c")
# Choices of the user's that cost more than what we do by ourselves: they have losses of their own.
CHOICES = (f"{OURS}-link", f"{OURS}-link-ws")
# Programs that measure ours beside others: the figure, and whether more is better.
PROGRAMS = {"websocket-echo": (("cpu", "CPU", False), ("rate", "rate", True))}
Cause = tuple[str, str, str, str]


class Loss(NamedTuple):
    scenario: str
    figure: str  # the name for people
    ours: str
    to: str
    times: float  # how much worse
    least: float  # ... in the round that was kindest to us
    cause: str
    mine: float  # the medians
    theirs: float
    direct: float | None = None  # the client at the origin, in the same run


def causes(path: Path = CAUSES) -> list[Cause]:
    """(scenario, figure, to, cause), with `*` in any but the last."""
    rows = tomllib.loads(path.read_text())["cause"]
    return [(row["scenario"], row["figure"], row["to"], row["why"]) for row in rows]


def losses(samples: Sequence[Sample], known: Sequence[Cause]) -> list[Loss]:
    """Of the best of ours in each scenario, to each subject that is better, worst first."""
    found = []
    for name, key, called, is_more, ours, other in _pairs(samples):
        pair = (other, ours) if is_more else (ours, other)
        worse = ratio(samples, name, *pair, key)
        if worse is None or worse.median <= BY_CHANCE:
            continue
        mine, theirs, direct = (
            figure(samples, name, subject, key) for subject in (ours, other, "direct")
        )
        assert mine is not None
        assert theirs is not None
        if (mine.median < theirs.median) != is_more:
            continue  # rounds that vary more than what they have in common
        found.append(
            Loss(
                name, called, ours, other, worse.median, worse.least,
                cause_of(known, name, called, other), mine.median, theirs.median,
                None if direct is None else direct.median,
            )
        )  # fmt: skip
    return sorted(found, key=lambda loss: -loss.times)


def _pairs(samples: Sequence[Sample]) -> Iterator[tuple[str, str, str, bool, str, str]]:
    """(scenario, figure, its name, whether more is better, ours, who else)."""
    for name in dict.fromkeys(each.scenario for each in samples):
        subjects = subjects_of(samples, name)
        rivals = [each for each in subjects if not each.startswith(OURS) and each not in BOUNDS]
        if name == "tls-costs":
            for ours in subjects:
                like = ours.replace(OURS, "nginx")
                if ours.startswith(OURS) and like in subjects:
                    yield name, "cost", "CPU", False, ours, like
            continue
        for key, called, is_more in _compared(samples, name):
            best = _best(samples, name, key, is_more, [e for e in subjects if e not in CHOICES])
            chosen = CHOICES if key == "cost" else ()
            for one in (best, *(each for each in chosen if each in subjects)):
                for other in rivals:
                    if one is not None:
                        yield name, key, called, is_more, one, other


def _compared(samples: Sequence[Sample], name: str) -> Sequence[tuple[str, str, bool]]:
    if not isinstance(BY_NAME.get(name), Scenario):
        return PROGRAMS.get(name, ())
    # Where memory is the question, time is that of a client in Python.
    is_memory = any(each.scenario == name and MEMORY[0] in each.figures for each in samples)
    return (MEMORY,) if is_memory else FIGURES


def _best(
    samples: Sequence[Sample], name: str, key: str, is_more: bool, subjects: Sequence[str]
) -> str | None:
    medians = {}
    for subject in subjects:
        spread = figure(samples, name, subject, key)
        if subject.startswith(OURS) and spread is not None:
            medians[subject] = spread.median
    if not medians:
        return None
    return (max if is_more else min)(medians, key=medians.__getitem__)


def cause_of(known: Sequence[Cause], name: str, called: str, to: str) -> str:
    for scenario, figure_name, other, why in known:
        if all(
            fnmatchcase(value, pattern)
            for value, pattern in ((name, scenario), (called, figure_name), (to, other))
        ):
            return why
    return UNKNOWN


class Group(NamedTuple):
    """Losses in the same figure for the same cause; to one subject, where the cause is unknown."""

    figure: str
    cause: str
    losses: list[Loss]


def grouped(found: Sequence[Loss]) -> list[Group]:
    """What nobody has explained comes first, then the worst."""
    groups: dict[tuple[str, str, str], list[Loss]] = {}
    for each in found:
        to = each.to if each.cause == UNKNOWN else ""
        groups.setdefault((each.figure, to, each.cause), []).append(each)
    made = [Group(called, cause, losses) for (called, _, cause), losses in groups.items()]
    return sorted(made, key=lambda group: (group.cause != UNKNOWN, -group.losses[0].times))
