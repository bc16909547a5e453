"""Metrics: what was counted, looked at now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """Values by name, as they were at one time."""

    time: float  # seconds since the epoch; kept to the millisecond
    type: str  # who counted: "server"
    values: Mapping[str, int | float]


class MetricStore(Protocol):
    async def metric_add(self, metric: Metric) -> None: ...
    async def metrics(self, type: str, *, since: float, until: float, limit: int) -> list[Metric]:
        """The newest of this type and time, both ends included, oldest of them first."""

    async def metrics_trim(self, before: float) -> None:
        """Delete those that are older."""
