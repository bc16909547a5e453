"""A server that exports to a collector: what arrives, and what a bad one does to us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import ENVIRON, TIMEOUT, Process
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.otlp_collector import Collector, Reply, collector, plain

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Begin = Callable[..., Site]


@pytest.fixture
def sink() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    sites: list[Site] = []

    def made(*args: str) -> Site:
        sites.append(Site(tmp_path / "data", server_args=["--workers", "2", *args]))
        return sites[-1]

    yield made
    for site in sites:
        site.close()


def by_path(sink: Collector) -> dict[str, Any]:
    return {plain(span.attributes)["url.path"]: span for span in sink.spans}


def test_metrics_and_spans_arrive(begin: Begin, sink: Collector, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text("authorization=Bearer%20s3cret\n")
    site = begin(
        *("--otlp-endpoint", sink.url, "--otlp-headers-file", str(headers)),
        *("--otlp-interval", "300ms", "--otlp-compression", "gzip"),
        *("--otlp-attributes", "deployment.environment.name=test"),
    )
    with Target() as target:
        site.connect({"web": target.port})
        assert site.get("web", "/kib?token=hidden").status == 200
        assert site.get("nobody", "/nothing").status == 404
        visitor = site.begin("/sink", f"traceparent: 00-{TRACE}-{PARENT}-01", "Content-Length: 0")
        assert visitor.response().status == 200
        wait_until(lambda: {"/kib", "/nothing", "/sink"} <= {*by_path(sink)})
        wait_until(lambda: _requests(sink) == 2)
    spans = by_path(sink)
    resource = plain(sink.traces[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == "proxy-engine"
    assert resource["deployment.environment.name"] == "test"
    good = plain(spans["/kib"].attributes)
    assert good["url.query"] == "token=[redacted]"
    assert (good["http.response.status_code"], good["proxy_engine.tunnel"]) == (200, "web")
    assert good["client.address"] == "127.0.0.1" and good["url.scheme"] == "http"
    parts = [good[f"proxy_engine.time.{part}"] for part in ("proxy", "link", "target")]
    assert sum(parts) == pytest.approx(good["proxy_engine.time.first_byte"], abs=1e-5)
    lost = plain(spans["/nothing"].attributes)
    assert (lost["http.response.status_code"], lost["proxy_engine.answered_by"]) == (404, "proxy")
    joined = spans["/sink"]
    assert (joined.trace_id.hex(), joined.parent_span_id.hex()) == (TRACE, PARENT)
    assert 0 <= time.time() - joined.end_time_unix_nano / 1e9 < 60
    assert {fields["authorization"] for _, fields in sink.posts} == {"Bearer s3cret"}
    assert {fields["content-encoding"] for _, fields in sink.posts} == {"gzip"}
    assert "s3cret" not in site.output()


def _requests(sink: Collector) -> int:
    """Those of the tunnel web that went well."""
    if not sink.metrics:
        return 0
    return sum(
        point.as_int
        for point in sink.newest()["proxy_engine.tunnel_requests"].sum.data_points
        if plain(point.attributes) == {"tunnel": "web", "code": "2xx"}
    )


def test_the_last_of_both_is_sent_when_the_server_ends(begin: Begin, sink: Collector) -> None:
    site = begin("--otlp-endpoint", sink.url, "--otlp-interval", "1h")
    with Target() as target:
        site.connect({"web": target.port})
        assert site.get("web", "/kib").status == 200
        site.server.signal(signal.SIGTERM)
        assert site.server.exit_code() == 0
    assert "/kib" in by_path(sink)
    assert _requests(sink) == 1


@pytest.mark.parametrize("kind", ["down", "slow", "refuses", "busy"])
def test_a_bad_collector_hurts_nobody(begin: Begin, sink: Collector, kind: str) -> None:
    sink.reply = {
        "down": Reply(),
        "slow": Reply(delay=60.0),
        "refuses": Reply(400),
        "busy": Reply(503, {"Retry-After": "3600"}),
    }[kind]
    if kind == "down":
        sink.close()
    site = begin(
        *("--otlp-endpoint", sink.url, "--otlp-interval", "100ms"),
        *("--otlp-timeout", "1s", "--otlp-queue", "16KiB"),
    )
    with Target() as target:
        site.connect({"web": target.port})
        for _ in range(300):
            assert site.get("web", "/kib").status == 200
        wait_until(lambda: site.stats()["otlp_posts_failed"] > 0)
        wait_until(lambda: site.stats()["otlp_spans_dropped"] > 0)
        stats = site.stats()
        assert stats["otlp_queue_bytes"] <= 16 * 1024
        assert stats["otlp_posts"] == stats["otlp_spans_sent"] == 0
        site.server.log("the collector does not take what it gets")
        began = time.monotonic()
        site.server.signal(signal.SIGTERM)
        assert site.server.exit_code() == 0
        assert time.monotonic() - began < 30  # and not for as long as the collector takes


def test_the_variables_of_opentelemetry_are_enough(tmp_path: Path, sink: Collector) -> None:
    server = Process(
        *("run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
        *("--data-dir", str(tmp_path), "--log-format", "json"),
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.url,
        OTEL_METRIC_EXPORT_INTERVAL="100",
        OTEL_SERVICE_NAME="edge",
    )
    try:
        wait_until(lambda: sink.metrics)
    finally:
        server.end()
    (group,) = sink.metrics[0].resource_metrics
    assert plain(group.resource.attributes)["service.name"] == "edge"


def test_without_the_extra_the_server_says_what_to_install(tmp_path: Path) -> None:
    """An import system without OpenTelemetry, as where the extra is not installed."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')\n")
    paths = f"{tmp_path}:{ENVIRON['PYTHONPATH']}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proxy_engine", "run", "--data-dir", str(tmp_path / "data")),
            *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            *("--otlp-endpoint", "http://127.0.0.1:1"),
        ],
        env={**ENVIRON, "PYTHONPATH": paths, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("otlp_endpoint needs more packages: pip install 'proxy-engine[otlp]'")
    assert not (tmp_path / "data").exists()
