"""Metrics in OTLP's form: all that /metrics has, under names that lead back to it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from proxy_engine.metrics.catalogue import METRICS
from proxy_engine.metrics.text import PLAIN, Buckets, Numbers, family, histogram, render
from proxy_engine.metrics.tunnels import TunnelSeries
from proxy_engine.otlp.attributes import resource
from proxy_engine.otlp.metrics import MetricsEncoder, named
from proxy_engine.storage.sqlite import SqliteStore
from tests.otlp_collector import plain
from tests.unit.proxy.test_metrics import RealService, row, samples

SUFFIXES = {"s": "_seconds", "By": "_bytes", "": ""}
Key = tuple[str, tuple[tuple[str, str], ...]]


def encoder(started_at: float = 1000.0) -> MetricsEncoder:
    return MetricsEncoder(Resource(), started_at)


def decoded(body: bytes) -> list[Metric]:
    (group,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    (scope,) = group.scope_metrics
    return list(scope.metrics)


def as_prometheus(metric: Metric) -> str:
    """The rules by which Prometheus and the collector make a name of one of OTLP."""
    name = re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name) + SUFFIXES[metric.unit]
    return name + ("_total" if metric.HasField("sum") and metric.sum.is_monotonic else "")


def as_samples(metrics: list[Metric]) -> dict[Key, float]:
    found: dict[Key, float] = {}

    def put(name: str, labels: dict[str, str], value: float) -> None:
        found[name, tuple(sorted(labels.items()))] = value

    for metric in metrics:
        name = as_prometheus(metric)
        for point in (*metric.sum.data_points, *metric.gauge.data_points):
            put(name, plain(point.attributes), getattr(point, point.WhichOneof("value") or ""))
        for each in metric.histogram.data_points:
            labels, total = plain(each.attributes), 0
            for bound, count in zip([*each.explicit_bounds, None], each.bucket_counts, strict=True):
                total += count
                le = "+Inf" if bound is None else repr(bound)
                put(f"{name}_bucket", {**labels, "le": le}, total)
            put(f"{name}_sum", labels, each.sum)
            put(f"{name}_count", labels, each.count)
    return found


def test_every_name_leads_back_to_that_of_the_scrape() -> None:
    for each in METRICS.values():
        name, unit = named(each)
        assert name.startswith(("proxy_engine.", "process."))
        metric = Metric(name=name, unit=unit)
        metric.sum.is_monotonic = each.kind == "counter"
        assert as_prometheus(metric) == each.name


async def test_it_is_what_a_scrape_says(store: SqliteStore) -> None:
    service = RealService(store)
    await service.store.tunnels()
    scraped = samples(await service.exporter.scrape(PLAIN))
    found = as_samples(decoded(encoder()(await service.exporter.numbers(), 2000.0)))
    assert {*found} == {*scraped}
    moving = re.compile(r"process_|.*(duration|cpu|turns|start_time)")
    still = {key for key in found if not moving.match(key[0])}
    assert len(still) > 150
    assert {key: found[key] for key in still} == {key: scraped[key] for key in still}


def test_counts_of_tunnels_are_the_same_as_text_and_as_numbers() -> None:
    names = {1: "web", 2: 'a"b\\c'}
    rows = [row(0), row(1, 5, open_now=2), row(2, 7), row(3, 9)]
    text, numbers = TunnelSeries(), TunnelSeries()
    as_text = render(text.families(rows, {**names, 3: "other"}, 2), PLAIN)
    as_numbers = render(numbers.numbers(rows, {**names, 3: "other"}, 2), PLAIN)
    assert samples(as_text) == samples(as_numbers)
    assert b"(other)" in as_numbers


def test_kinds_units_and_times() -> None:
    encode = encoder(started_at=1000.0)
    families: list[Numbers | Buckets] = [
        family("proxy_engine_visitor_sent_bytes_total", [((), 7)]),
        family("proxy_engine_worker_cpu_seconds_total", [(("0",), 1.5)]),
        family("proxy_engine_links", [((), 3)]),
        histogram("proxy_engine_link_round_trip_seconds", (0.1, 1.0), [((), (1, 2, 3), 9.5)]),
        family("proxy_engine_store_errors_total", []),
    ]
    sent, cpu, links, trips = decoded(encode(families, 2000.5))
    assert (sent.name, sent.unit) == ("proxy_engine.visitor_sent", "By")
    assert sent.description == "Bytes to visitors."
    assert sent.sum.is_monotonic
    assert sent.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = sent.sum.data_points
    assert (point.as_int, point.start_time_unix_nano) == (7, 1000 * 10**9)
    assert point.time_unix_nano == 2000_500_000_000
    assert cpu.sum.data_points[0].as_double == 1.5
    assert plain(cpu.sum.data_points[0].attributes) == {"worker": "0"}
    assert (links.unit, links.gauge.data_points[0].as_int) == ("", 3)
    (bucket,) = trips.histogram.data_points
    assert (trips.unit, [*bucket.bucket_counts], bucket.count) == ("s", [1, 2, 3], 6)
    assert ([*bucket.explicit_bounds], bucket.sum) == ([0.1, 1.0], 9.5)


def test_a_tunnel_that_comes_back_begins_anew() -> None:
    encode = encoder(started_at=1000.0)

    def start(value: int | None, now: float) -> int:
        values = [] if value is None else [(("web",), value)]
        name = "proxy_engine_tunnel_received_bytes_total"
        body = encode([family("proxy_engine_links", [((), 0)]), family(name, values)], now)
        points = [point for metric in decoded(body) for point in metric.sum.data_points]
        return points[0].start_time_unix_nano // 10**9 if points else 0

    assert start(5, 1060.0) == 1000
    assert start(9, 1120.0) == 1000
    assert start(None, 1180.0) == 0
    assert start(2, 1240.0) == 1180


def test_the_resource_says_who_we_are() -> None:
    found = plain(resource("edge", {"service.instance.id": "me", "team": "a"}).attributes)
    assert found["service.name"] == "edge"
    assert (found["service.instance.id"], found["team"]) == ("me", "a")
    assert found["service.version"] and found["process.pid"] > 0
    ids: list[Any] = [plain(resource("x", {}).attributes)["service.instance.id"] for _ in "ab"]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("value", [0, 3, 2**53])
def test_whole_numbers_are_whole(value: int) -> None:
    (metric,) = decoded(encoder()([family("proxy_engine_tunnels", [((), value)])], 1.0))
    assert metric.gauge.data_points[0].as_int == value
