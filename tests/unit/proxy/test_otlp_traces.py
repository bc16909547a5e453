"""Finished requests as spans: what they say, which there are, and what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proxy_engine.otlp import traces_export
from proxy_engine.otlp.delivery import Delivery
from proxy_engine.otlp.sampling import sampler
from proxy_engine.otlp.spans import SpanEncoder
from proxy_engine.otlp.traces_export import TAKE_BYTES, TracesExport
from proxy_engine.requests.redaction import Redactor
from proxy_engine.settings.otlp import SAMPLERS
from proxy_engine_core import log_batch
from proxy_engine_core.core import (
    LOG_ABORTED,
    LOG_HTTP10,
    LOG_LOCAL,
    LOG_RETRIED,
    LOG_TCP,
    LOG_TUNNEL,
    LogRecord,
)
from tests.otlp_collector import Collector, Reply, collector, plain

TRACE, PARENT, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
GOOD = LogRecord(
    time_us=1_700_000_000_500_000,
    route=1,
    device=7,
    request_id="acc77e5f74aaf3fe",
    visitor="192.0.2.7",
    method="GET",
    host="web.example.com:8080",
    path="/a/b?token=s3cret&x=1",
    status=200,
    reason="",
    flags=0,
    bytes_in=89,
    bytes_out=1229,
    total_us=358_000,
    first_byte_us=301_000,
    target_us=204_000,
    link_us=80_000,
)
COMMON = {
    "client.address": "192.0.2.7",
    "proxy_engine.tunnel": "web",
    "proxy_engine.device": "pi",
    "proxy_engine.request_id": "acc77e5f74aaf3fe",
    "proxy_engine.time.first_byte": 0.301,
    "proxy_engine.time.proxy": 0.017,
    "proxy_engine.time.link": 0.08,
    "proxy_engine.time.target": 0.204,
}


def encoder() -> SpanEncoder:
    return SpanEncoder(
        Resource(),
        redact=Redactor(),
        tunnel_name={1: "web"}.get,
        device_name={7: "pi"}.get,
        scheme="https",
    )


def span(record: LogRecord) -> Span:
    request = ExportTraceServiceRequest.FromString(encoder()([record]))
    (found,) = request.resource_spans[0].scope_spans[0].spans
    return found


# --- what a span says ------------------------------------------------------------------------


def test_a_request_is_a_span_of_a_server() -> None:
    found = span(GOOD)
    assert (found.name, found.kind) == ("GET", Span.SPAN_KIND_SERVER)
    assert found.end_time_unix_nano == 1_700_000_000_500_000_000
    assert found.end_time_unix_nano - found.start_time_unix_nano == 358_000_000
    assert found.status.code == Status.STATUS_CODE_UNSET
    assert plain(found.attributes) == {
        **COMMON,
        "http.request.method": "GET",
        "url.scheme": "https",
        "url.path": "/a/b",
        "url.query": "token=[redacted]&x=1",
        "http.response.status_code": 200,
        "proxy_engine.answered_by": "target",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "server.address": "web.example.com",
        "server.port": 8080,
        "http.request.size": 89,
        "http.response.size": 1229,
    }


def test_it_is_part_of_the_trace_of_the_visitor() -> None:
    found = span(GOOD._replace(trace_id=TRACE, parent_id=PARENT, span_id=SPAN, trace_flags=1))
    assert found.trace_id.hex() == TRACE
    assert found.parent_span_id.hex() == PARENT
    assert found.span_id.hex() == SPAN
    assert found.flags == 0x301


def test_it_begins_a_trace_where_there_was_none() -> None:
    first, second = span(GOOD), span(GOOD)
    assert len(first.trace_id) == 16 and len(first.span_id) == 8
    assert first.parent_span_id == b""
    assert first.flags & 0x200 == 0
    assert (first.trace_id, first.span_id) != (second.trace_id, second.span_id)


def test_a_target_that_was_told_the_visitors_span_has_it_as_its_parent_and_so_have_we() -> None:
    found = span(GOOD._replace(trace_id=TRACE, parent_id=PARENT))
    assert found.parent_span_id.hex() == PARENT
    assert len(found.span_id) == 8 and found.span_id.hex() != PARENT


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 404}, ""),
        ({"status": 404, "reason": "no_tunnel", "flags": LOG_LOCAL}, ""),
        ({"status": 500}, "500"),
        ({"status": 504, "reason": "response_timeout", "flags": LOG_LOCAL}, "response_timeout"),
        ({"flags": LOG_ABORTED, "reason": "target_closed"}, "target_closed"),
        ({"status": 0, "flags": LOG_ABORTED}, "aborted"),
    ],
)
def test_what_failed_is_an_error(changes: dict[str, Any], error: str) -> None:
    found = span(GOOD._replace(**changes))
    attributes = plain(found.attributes)
    assert attributes.get("error.type", "") == error
    assert (found.status.code == Status.STATUS_CODE_ERROR) == bool(error)
    assert attributes.get("proxy_engine.reason", "") == changes.get("reason", "")
    assert attributes.get("http.response.status_code", 0) == changes.get("status", 200)
    local = changes.get("flags", 0) & LOG_LOCAL
    if "http.response.status_code" in attributes:
        assert attributes["proxy_engine.answered_by"] == ("proxy" if local else "target")


def test_what_is_not_known_is_not_said() -> None:
    record = GOOD._replace(
        route=0, device=0, request_id="", first_byte_us=0, target_us=0, link_us=0, path="*"
    )
    attributes = plain(span(record).attributes)
    left = {name for name in attributes if name.startswith("proxy_engine.")}
    assert left == {"proxy_engine.answered_by"}
    assert attributes["url.path"] == "*" and "url.query" not in attributes


def test_methods_nobody_knows_do_not_name_spans() -> None:
    found = span(GOOD._replace(method="BREW", flags=LOG_RETRIED | LOG_TUNNEL))
    attributes = plain(found.attributes)
    assert found.name == "HTTP"
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "BREW"
    assert attributes["proxy_engine.upgraded"] is True
    assert attributes["proxy_engine.retried"] is True


def test_the_version_is_the_visitors() -> None:
    attributes = plain(span(GOOD._replace(flags=LOG_HTTP10)).attributes)
    assert attributes["network.protocol.version"] == "1.0"


def test_a_connection_to_a_tcp_tunnel() -> None:
    record = GOOD._replace(method="TCP", host=":5432", path="", status=0, flags=LOG_TCP)
    found = span(record)
    assert found.name == "TCP"
    assert plain(found.attributes) == {
        **COMMON,
        "network.transport": "tcp",
        "server.port": 5432,
        "proxy_engine.received_bytes": 89,
        "proxy_engine.sent_bytes": 1229,
    }


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("a.example", "a.example", None),
        ("a.example:80", "a.example", 80),
        ("[2001:db8::1]:81", "2001:db8::1", 81),
        ("[2001:db8::1]", "2001:db8::1", None),
    ],
)
def test_hosts_have_names_and_ports(host: str, address: str, port: int | None) -> None:
    attributes = plain(span(GOOD._replace(host=host)).attributes)
    assert (attributes["server.address"], attributes.get("server.port")) == (address, port)


# --- which there are -------------------------------------------------------------------------


def low(share: float) -> str:
    """The id of a trace whose lower half is at this share of all there are."""
    return TRACE[:16] + f"{int(share * 2**64):016x}"


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("brought", [None, 0, 1])
def test_samplers_are_those_of_opentelemetry(name: str, brought: int | None) -> None:
    is_sampled = sampler(name, 0.25)
    kept = []
    for share in (0.1, 0.2499, 0.2501, 0.9):
        record = GOOD._replace(trace_id=low(share))
        if brought is not None:
            record = record._replace(parent_id=PARENT, trace_flags=brought)
        kept.append(is_sampled(record))
    if brought is not None and name.startswith("parentbased_"):
        assert kept == [bool(brought)] * 4
    elif name.endswith("traceidratio"):
        assert kept == [True, True, False, False]
    else:
        assert kept == [name.endswith("on")] * 4


def test_without_a_trace_chance_decides() -> None:
    is_sampled = sampler("parentbased_traceidratio", 0.25)
    assert 150 < sum(is_sampled(GOOD) for _ in range(1000)) < 350
    assert all(sampler("traceidratio", 1.0)(GOOD) for _ in range(100))
    assert not any(sampler("traceidratio", 0.0)(GOOD) for _ in range(100))


# --- on their way ----------------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[Collector]:
    with collector() as found:
        yield found


Make = Callable[..., TracesExport]


@pytest.fixture
async def make(site: Collector, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(traces_export, "GATHER", 0.01)
    made: list[TracesExport] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:

        def export(queue_bytes: int = 1 << 20, share: float = 1.0) -> TracesExport:
            found = TracesExport(
                encoder(),
                bytes,
                Delivery(session, f"{site.url}/v1/traces", {}, sleep=lambda _: asyncio.sleep(0.01)),
                sampler("traceidratio", share),
                queue_bytes,
            )
            found.start()
            made.append(found)
            return found

        yield export
        for each in made:
            await each.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def batch(count: int, first: int = 0) -> bytes:
    return log_batch.pack(
        GOOD._replace(request_id=f"{number:016x}") for number in range(first, first + count)
    )


def ids(site: Collector) -> list[int]:
    return [int(plain(each.attributes)["proxy_engine.request_id"], 16) for each in site.spans]


async def test_batches_become_posts_of_limited_size(make: Make, site: Collector) -> None:
    export = make()
    export.put(batch(1000))
    export.put(batch(300, 1000))
    await until(lambda: export.sent == 1300)
    assert ids(site) == [*range(1300)]
    sizes = [len(each.resource_spans[0].scope_spans[0].spans) for each in site.traces]
    assert max(sizes) <= traces_export.SPANS_MAX
    assert (export.dropped, export.waiting, export.delivery.taken) == (0, 0, len(sizes))


async def test_what_is_not_sampled_is_neither_sent_nor_lost(make: Make, site: Collector) -> None:
    export = make(share=0.5)
    records = [GOOD._replace(trace_id=low(share)) for share in (0.4, 0.6, 0.1, 0.9)]
    export.put(log_batch.pack(records))
    await until(lambda: export.sent == 2)
    await until(export._idle.is_set)
    assert [each.trace_id.hex() for each in site.spans] == [low(0.4), low(0.1)]
    assert export.dropped == 0


async def test_a_collector_that_comes_back_gets_what_waited(make: Make, site: Collector) -> None:
    site.replies.extend([Reply(503)] * 5)
    export = make()
    export.put(batch(10))
    await until(lambda: export.delivery.failed == 5)
    export.put(batch(10, 10))
    await until(lambda: export.sent == 20)
    assert ids(site) == [*range(20)]
    assert export.dropped == 0


async def test_while_it_is_down_the_queue_is_bounded_and_drops_are_counted(
    make: Make, site: Collector
) -> None:
    site.reply = Reply(503)
    export = make(queue_bytes=2 * TAKE_BYTES)
    part = batch(100)
    export.put(part)
    await until(lambda: export.delivery.failed > 1)
    began = time.perf_counter()
    for _ in range(1000):
        export.put(part)
    assert time.perf_counter() - began < 2  # nobody waited: it is microseconds for each
    assert 0 < export.waiting <= 2 * TAKE_BYTES
    kept = export.waiting // len(part)
    assert export.dropped == 100 * (1000 - kept)
    site.reply = Reply()
    await until(lambda: export.sent == 100 * (kept + 1))
    assert export.waiting == 0


@pytest.mark.parametrize("reply", [Reply(400), Reply(delay=4.0)])
async def test_what_is_refused_or_too_slow_is_dropped(
    make: Make, site: Collector, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    monkeypatch.setattr(traces_export, "TRY_SECONDS", 0.0)
    site.replies.append(reply)
    export = make()
    export.put(batch(10))
    await until(lambda: export.dropped == 10)
    export.put(batch(5, 10))
    await until(lambda: export.sent == 5)


async def test_what_the_collector_leaves_out_is_dropped(make: Make, site: Collector) -> None:
    site.replies.append(Reply(rejected=3))
    export = make()
    export.put(batch(10))
    await until(lambda: export.sent == 7)
    assert export.dropped == 3


async def test_at_the_end_what_waits_is_sent(make: Make, site: Collector) -> None:
    export = make()
    export.put(batch(700))
    await export.close()
    assert (export.sent, export.dropped) == (700, 0)


async def test_at_the_end_a_collector_that_is_down_is_not_waited_for(
    make: Make, site: Collector
) -> None:
    site.reply = Reply(503)
    export = make()
    export.put(batch(10))
    await until(lambda: export.delivery.failed)
    export.put(batch(10))
    began = time.monotonic()
    await export.close()
    assert time.monotonic() - began < 1
    assert (export.sent, export.dropped) == (0, 20)


async def test_a_batch_that_is_broken_costs_only_itself(make: Make, site: Collector) -> None:
    export = make()
    export._encode = None  # type: ignore[assignment]
    export.put(batch(3))
    await until(lambda: export.dropped == 3)
    export._encode = encoder()
    export.put(batch(2))
    await until(lambda: export.sent == 2)
