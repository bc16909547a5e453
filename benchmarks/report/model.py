"""What more connections cost, beyond what was measured: a model, said to be one. Pure.

Memory of idle links is a straight line: a base, and so much for each. CPU a request grows with
what the caches no longer hold: measured, it is close to a straight line in the logarithm of the
number of connections from where requests stop sharing turns, so that line is drawn on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Fit(NamedTuple):
    base: float
    slope: float

    def at(self, x: float) -> float:
        return self.base + self.slope * x


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Least squares. Raises: ValueError for fewer than two different x."""
    count = len(points)
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line wants two points")
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points)
    slope /= sum((x - mean_x) ** 2 for x, _ in points)
    return Fit(mean_y - slope * mean_x, slope)


def by_logarithm(points: Sequence[tuple[float, float]], beyond: Sequence[float]) -> list[float]:
    """The line through the two largest points, in log10 of x, drawn on to each of `beyond`."""
    last = sorted(points)[-2:]
    line = fit([(math.log10(x), y) for x, y in last])
    return [line.at(math.log10(x)) for x in beyond]
