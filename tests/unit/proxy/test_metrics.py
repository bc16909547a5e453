"""/metrics: names, formats, the series of tunnels, and who may read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from proxy_engine import tokens
from proxy_engine.api.server import create_app
from proxy_engine.api.stats import all_stats, exporter_of
from proxy_engine.cache.shared import SharedCache
from proxy_engine.errors import StorageError
from proxy_engine.grants import Scopes
from proxy_engine.metrics import document
from proxy_engine.metrics.catalogue import METRICS, STATS, WORKER_STATS
from proxy_engine.metrics.routes import RouteCounts, route_counts
from proxy_engine.metrics.store import MeasuredStore, measured
from proxy_engine.metrics.text import (
    OPEN_METRICS,
    PLAIN,
    Family,
    escape,
    family,
    histogram,
    media_type,
    render,
)
from proxy_engine.metrics.tunnels import NONE, OTHER, TunnelSeries
from proxy_engine.storage import Tunnel
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine_core.core import Engine
from tests.unit.proxy.test_api import Service

DOCS = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
PARSERS = {PLAIN: parse_plain, OPEN_METRICS: parse_open_metrics}


class RealService(Service):
    """The parts of a server that have numbers, around an engine that runs nothing."""

    def __init__(self, store: SqliteStore, tunnels: int = 2) -> None:
        super().__init__(Engine("server", workers=2), store)
        self.engine.routes_apply(
            [("set", f"host:t{each}.x", each, [], f"t{each}") for each in range(1, tunnels + 1)]
        )
        for each in range(1, tunnels + 1):
            self.table.learn([tunnel(each)])
        self.store: Any = measured(store)
        protocol: Any = self
        self.exporter: Any = exporter_of(protocol)


def tunnel(number: int) -> Tunnel:
    return Tunnel(id=number, name=f"t{number}", kind="http", device_id=1, created_at=0.0)


@pytest.fixture
def service(store: SqliteStore) -> RealService:
    return RealService(store)


def samples(text: bytes, kind: str = PLAIN) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for found in PARSERS[kind](text.decode())
        for sample in found.samples
    }


def row(route: int, count: int = 1, open_now: int = 0) -> RouteCounts:
    return RouteCounts(
        route, open_now, 0, 10 * count, 20 * count, 0, 0, 0, (0, 0, count, 0, 0, 0), 3000 * count,
        (0, 0, count, *[0] * 11),
    )  # fmt: skip


# --- the catalogue ---------------------------------------------------------------------------


def test_names_follow_the_conventions() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"(proxy_engine|process)_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not re.search(r"_(ms|us|milliseconds|kb|mb|count|sum|bucket)(_|$)", metric.name)
        assert metric.help.endswith("."), metric.name
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert not {"le", "quantile", "job", "instance"} & {*metric.labels}


def test_everything_that_is_counted_is_a_metric(service: RealService) -> None:
    """A new counter of /api/v1/stats wants a row in proxy_engine/metrics/catalogue.py."""
    protocol: Any = service
    shared = SharedCache("redis://127.0.0.1:1", "", b"k" * 32, guard=service.guard)
    stats = {*all_stats(protocol), *shared.stats()}
    stats |= {"tls_certificates", "tls_certificate_days", "tls_reloads", "tls_reload_failures"}
    assert stats - {*STATS, *WORKER_STATS} == set()
    pages = "".join(page.read_text() for page in DOCS.parent.glob("*.md"))
    assert stats - set(re.findall(r"`([a-z0-9_]+)`", pages)) == set(), "docs/counters.md"
    assert {*STATS} - stats == set()
    for source in (*STATS.values(), *WORKER_STATS.values()):
        assert len(source.values) in (0, len(METRICS[source.metric].labels))


def test_every_metric_is_documented() -> None:
    page = DOCS.read_text()
    assert document.filled(page) == page, "run python -m proxy_engine.metrics.document"
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {*METRICS}


# --- the text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain", PLAIN),
        ("text/html,application/json;q=0.9", PLAIN),
        ("application/openmetrics-text", OPEN_METRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
         OPEN_METRICS),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.3", PLAIN),
        ("application/openmetrics-text;q=zero", PLAIN),
    ],
)  # fmt: skip
def test_the_format_is_what_was_asked_for(accept: str, kind: str) -> None:
    assert media_type(accept) == kind


@pytest.mark.parametrize("kind", [PLAIN, OPEN_METRICS])
async def test_parsers_read_all_of_it(service: RealService, kind: str) -> None:
    await service.store.ping()
    text = await service.exporter.scrape(kind)
    found = {each.name: each for each in PARSERS[kind](text.decode())}
    for name, each in found.items():
        metric = METRICS.get(name) or METRICS[f"{name}_total"]
        assert each.type == metric.kind
        for sample in each.samples:
            labels = {*sample.labels} - {"le"}
            assert labels == {*metric.labels}, sample
    names = {name if name in METRICS else f"{name}_total" for name in found}
    only_with = {name for name in METRICS if re.search("tls_(cert|reload)|shared_cache", name)}
    assert {*METRICS} - names == only_with
    if kind == OPEN_METRICS:
        assert text.endswith(b"# EOF\n")


async def test_promtool_has_nothing_to_say(service: RealService) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: apt-get install prometheus)")
    text = await service.exporter.scrape(PLAIN)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_values_of_labels_are_escaped() -> None:
    build = family("proxy_engine_build_info", [(('a"b\\c\nd', "", ""), 1)])
    for kind in (PLAIN, OPEN_METRICS):
        [labels] = [dict(labels) for _, labels in samples(render([build], kind), kind)]
        assert labels["version"] == 'a"b\\c\nd'
    assert escape("plain") == "plain"


def test_buckets_add_up() -> None:
    name = "proxy_engine_store_duration_seconds"
    text = render([histogram(name, (0.1, 1.0), [(("get",), [2, 1, 3], 7.5)])], PLAIN)
    found = samples(text)
    operation = ("operation", "get")
    for bound, count in (("0.1", 2), ("1.0", 3), ("+Inf", 6)):
        assert found[f"{name}_bucket", (("le", bound), operation)] == count
    assert found[f"{name}_count", (operation,)] == 6
    assert found[f"{name}_sum", (operation,)] == 7.5


# --- tunnels ---------------------------------------------------------------------------------


def requests(families: list[Family]) -> dict[str, float]:
    """Of all tunnels: how many were answered 2xx."""
    found = samples(render(families, PLAIN))
    return {
        dict(labels)["tunnel"]: value
        for (name, labels), value in found.items()
        if name == "proxy_engine_tunnel_requests_total" and ("code", "2xx") in labels
    }


def test_so_many_tunnels_have_series_of_their_own_and_the_others_one() -> None:
    series = TunnelSeries()
    names = {1: "one", 2: "two", 3: "three", 4: "four"}
    rows = [row(0, 9), *(row(route, route) for route in names)]
    assert requests(series.families(rows, names, 2)) == {NONE: 9, "one": 1, "two": 2, OTHER: 7}
    assert (series.without, series.has(2), series.has(3)) == (2, True, False)


def test_what_is_counted_together_never_falls() -> None:
    series = TunnelSeries()
    names = {1: "one", 2: "two", 3: "three"}
    assert requests(series.families([row(1), row(2, 5), row(3, 7, 1)], names, 1))[OTHER] == 12
    # Tunnel 2 goes; the engine still has its counts, then not any more.
    del names[2]
    assert requests(series.families([row(1), row(2, 6), row(3, 7)], names, 1))[OTHER] == 13
    assert requests(series.families([row(1), row(3, 7)], names, 1))[OTHER] == 13
    # The one that had series of its own goes: a new tunnel gets them, one of the others does not.
    del names[1]
    names[4] = "four"
    found = requests(series.families([row(1), row(3, 8), row(4, 2)], names, 1))
    assert found == {"four": 2, OTHER: 14}


def test_nothing_is_open_in_what_went() -> None:
    series = TunnelSeries()
    series.families([row(1, 1, open_now=3)], {1: "one"}, 0)
    found = samples(render(series.families([], {}, 0), PLAIN))
    assert found["proxy_engine_tunnel_open", (("tunnel", OTHER),)] == 0
    assert found["proxy_engine_tunnel_request_duration_seconds_sum", (("tunnel", OTHER),)] == 0.003


async def test_a_scrape_of_a_thousand_tunnels_has_them_all(store: SqliteStore) -> None:
    service = RealService(store, tunnels=1000)
    text = await service.exporter.scrape(PLAIN)
    assert len(requests_of(text)) == 1001
    assert len(list(route_counts(service.engine.route_stats()))) == 1001


def requests_of(text: bytes) -> set[bytes]:
    return set(re.findall(rb'^proxy_engine_tunnel_open\{tunnel="([^"]+)"', text, re.MULTILINE))


# --- the store -------------------------------------------------------------------------------


async def test_calls_of_the_store_are_timed_and_its_errors_counted(store: SqliteStore) -> None:
    timed = measured(store)
    assert isinstance(timed, MeasuredStore)
    await timed.ping()
    await timed.ping()

    async def failing() -> None:
        raise StorageError("it is full")

    broken: Any = store
    broken.requests_count = failing
    with pytest.raises(StorageError):
        await getattr(timed, "requests_count")()  # noqa: B009
    timing = timed.timings["ping"]
    assert (sum(timing.counts), timing.errors) == (2, 0)
    assert timing.total > 0
    timing = timed.timings["requests_count"]
    assert (sum(timing.counts), timing.errors) == (1, 1)
    with pytest.raises(AttributeError):
        timed.nothing_of_that_name  # noqa: B018


# --- who may ---------------------------------------------------------------------------------


async def token(store: SqliteStore, **options: Any) -> dict[str, str]:
    secret, _ = await tokens.create(store, now=time.time(), **options)
    return {"Authorization": f"Bearer {secret}"}


async def test_a_read_only_token_is_enough_and_needed(
    service: RealService, store: SqliteStore
) -> None:
    protocol: Any = service
    reader = await token(store, name="prometheus", kind="admin", scopes=Scopes(read_only=True))
    device = await token(store, name="device")
    async with TestClient(TestServer(create_app(protocol))) as client:
        assert (await client.get("/metrics")).status == 401
        assert (await client.get("/metrics", headers=device)).status == 403
        answer = await client.get("/metrics", headers=reader)
        assert (answer.status, answer.headers["Content-Type"]) == (200, PLAIN)
        answer = await client.get(
            "/metrics", headers={**reader, "Accept": "application/openmetrics-text"}
        )
        assert answer.headers["Content-Type"] == OPEN_METRICS
        service.settings = msgspec.structs.replace(service.settings, metrics_public=True)
        assert (await client.get("/metrics")).status == 200
        assert (await client.get("/metrics?x=1")).status == 400
        assert (await client.post("/metrics")).status == 405
        service.exporter = None
        assert (await client.get("/metrics")).status == 503
