"""What /metrics has, in OTLP's form.

Names and units are such that a Prometheus that takes OTLP, or a collector that exports to one,
makes the names of /metrics of them again: `_total` goes, a unit at the end of a name becomes the
unit, and the prefix becomes a namespace. So dashboard and alert rules fit both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as proto
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from proxy_engine.metrics.catalogue import TUNNELS, Metric
from proxy_engine.metrics.text import Buckets, Numbers
from proxy_engine.otlp.attributes import SCOPE, put

UNITS = {"_seconds": "s", "_bytes": "By"}  # UCUM
NAMESPACES = ("proxy_engine", "process")
_CUMULATIVE = proto.AGGREGATION_TEMPORALITY_CUMULATIVE


class Named(NamedTuple):
    name: str
    unit: str  # "": a count


def named(metric: Metric) -> Named:
    """proxy_engine_store_duration_seconds is proxy_engine.store_duration, in s."""
    name, unit = metric.name.removesuffix("_total"), ""
    for end, symbol in UNITS.items():
        if name.endswith(end):
            name, unit = name.removesuffix(end), symbol
    for namespace in NAMESPACES:
        if name.startswith(f"{namespace}_"):
            name = f"{namespace}.{name.removeprefix(f'{namespace}_')}"
    return Named(name, unit)


class MetricsEncoder:
    """
    Args:
        started_at: of the server, seconds since the epoch: counters began at 0 then.
    """

    def __init__(self, resource: Resource, started_at: float) -> None:
        self._resource = resource
        self._started_ns = int(started_at * 1e9)
        # Since when there are counts of a tunnel: no earlier than the export before it came, so
        # that one that comes back under its name begins anew.
        self._tunnels: dict[str, int] = {}
        self._last_ns = self._started_ns

    def __call__(self, families: Iterable[Numbers | Buckets], now: float) -> bytes:
        """An ExportMetricsServiceRequest."""
        now_ns, seen = int(now * 1e9), set()
        request = ExportMetricsServiceRequest()
        group = request.resource_metrics.add(resource=self._resource)
        scope = group.scope_metrics.add(scope=SCOPE)
        for family in families:
            if not family.samples:
                continue
            name, unit = named(family.metric)
            metric = scope.metrics.add(name=name, unit=unit, description=family.metric.help)
            is_tunnels = family.metric in TUNNELS
            for sample in family.samples:
                start_ns = self._started_ns
                if is_tunnels:
                    tunnel = sample[0][0]
                    seen.add(tunnel)
                    start_ns = self._tunnels.setdefault(tunnel, self._last_ns)
                if isinstance(family, Buckets):
                    _add_buckets(metric, family, sample, start_ns, now_ns)
                else:
                    _add_number(metric, family, sample, start_ns, now_ns)
        for tunnel in self._tunnels.keys() - seen:
            del self._tunnels[tunnel]
        self._last_ns = now_ns
        return request.SerializeToString()


def _add_number(
    metric: proto.Metric, family: Numbers, sample: Any, start_ns: int, now_ns: int
) -> None:
    values, value = sample
    if family.metric.kind == "counter":
        metric.sum.aggregation_temporality = _CUMULATIVE
        metric.sum.is_monotonic = True
        point = metric.sum.data_points.add(start_time_unix_nano=start_ns)
    else:
        point = metric.gauge.data_points.add()
    point.time_unix_nano = now_ns
    put(point.attributes, zip(family.metric.labels, values, strict=True))
    if value == int(value):
        point.as_int = int(value)
    else:
        point.as_double = value


def _add_buckets(
    metric: proto.Metric, family: Buckets, sample: Any, start_ns: int, now_ns: int
) -> None:
    values, counts, total = sample
    metric.histogram.aggregation_temporality = _CUMULATIVE
    point = metric.histogram.data_points.add(
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        explicit_bounds=family.bounds,
        bucket_counts=counts,
        count=sum(counts),
        sum=total,
    )
    put(point.attributes, zip(family.metric.labels, values, strict=True))
