"""Metrics as text, in the two formats that Prometheus asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from proxy_engine.metrics.catalogue import METRICS, Metric

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Family(NamedTuple):
    """A metric and its lines, each with its end."""

    metric: Metric
    lines: str


class Numbers(NamedTuple):
    """A counter or gauge: the values of its labels, and its own."""

    metric: Metric
    samples: Sequence[tuple[Sequence[str], float]]

    @property
    def lines(self) -> str:
        name, lines = self.metric.name, []
        for values, value in self.samples:
            labels = label_text(self.metric.labels, values)
            lines.append(
                f"{name}{{{labels}}} {number(value)}\n" if labels else f"{name} {number(value)}\n"
            )
        return "".join(lines)


class Buckets(NamedTuple):
    """A histogram: the values of its labels, how many were in each bucket, one more than there are
    bounds, and their sum."""

    metric: Metric
    bounds: Sequence[float]
    samples: Sequence[tuple[Sequence[str], Sequence[int], float]]

    @property
    def lines(self) -> str:
        name, lines = self.metric.name, []
        for values, counts, total in self.samples:
            labels = label_text(self.metric.labels, values)
            before = labels + "," if labels else ""
            count = 0
            for bound, more in zip((*self.bounds, float("inf")), counts, strict=True):
                count += more
                lines.append(f'{name}_bucket{{{before}le="{bound_text(bound)}"}} {count}\n')
            braces = f"{{{labels}}}" if labels else ""
            lines.append(f"{name}_sum{braces} {number(total)}\n{name}_count{braces} {count}\n")
        return "".join(lines)


def media_type(accept: str) -> str:
    """The one that an Accept field prefers; the plain one if it says nothing of either."""
    weights = {PLAIN: 0.0, OPEN_METRICS: 0.0}
    for part in accept.split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        if kind == "application/openmetrics-text":
            weights[OPEN_METRICS] = max(weight, weights[OPEN_METRICS])
        elif kind in ("text/plain", "text/*", "*/*"):
            weights[PLAIN] = max(weight, weights[PLAIN])
    return OPEN_METRICS if weights[OPEN_METRICS] > weights[PLAIN] else PLAIN


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    """`name="value",...` without braces."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=True))


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def bound_text(seconds: float) -> str:
    """As the value of `le`: the same in both formats, so that series are."""
    return "+Inf" if seconds == float("inf") else repr(float(seconds))


def number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)


def family(name: str, samples: Iterable[tuple[Sequence[str], float]]) -> Numbers:
    """Of a counter or gauge of the catalogue."""
    return Numbers(METRICS[name], [*samples])


def histogram(
    name: str,
    bounds: Sequence[float],
    samples: Iterable[tuple[Sequence[str], Sequence[int], float]],
) -> Buckets:
    """Of a histogram of the catalogue."""
    return Buckets(METRICS[name], bounds, [*samples])


def render(families: Iterable[Family | Numbers | Buckets], kind: str) -> bytes:
    is_open = kind == OPEN_METRICS
    parts = []
    for each in families:
        metric, lines = each.metric, each.lines
        name = metric.name
        if is_open and metric.kind == "counter":
            name = name.removesuffix("_total")  # of the family; its samples keep it
        parts.append(f"# HELP {name} {escape(metric.help) if is_open else _plain(metric.help)}\n")
        parts.append(f"# TYPE {name} {metric.kind}\n{lines}")
    if is_open:
        parts.append("# EOF\n")
    return "".join(parts).encode()


def _plain(help: str) -> str:
    return help.replace("\\", "\\\\").replace("\n", "\\n")
