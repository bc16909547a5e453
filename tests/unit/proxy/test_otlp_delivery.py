"""POSTs to a collector that is well, down, slow, or refuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from proxy_engine.otlp.delivery import DELAY_MAX, REST_MAX, Delivery, partial
from tests.otlp_collector import Collector, Reply, collector

BODY = ExportTraceServiceRequest().SerializeToString()


@pytest.fixture
def site() -> Iterator[Collector]:
    with collector() as found:
        yield found


def date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


class Sleeps:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def delivery(
    url: str, sleeps: Sleeps | None = None, patience: float = 5.0
) -> AsyncIterator[Delivery]:
    limits = aiohttp.ClientTimeout(total=patience)
    async with aiohttp.ClientSession(timeout=limits) as session:
        headers = {"authorization": "Bearer x"}
        yield Delivery(
            session, f"{url}/v1/traces", headers, sleep=sleeps or Sleeps(), chance=lambda: 1.0
        )


async def test_a_body_is_taken(site: Collector) -> None:
    async with delivery(site.url) as found:
        assert await found.deliver(BODY, 10) is not None
        assert (found.taken, found.failed, found.is_failing) == (1, 0, False)
    path, fields = site.posts[0]
    assert path == "/v1/traces"
    assert fields["content-type"] == "application/x-protobuf"
    assert fields["authorization"] == "Bearer x"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_change_is_tried_again_ever_more_slowly(
    site: Collector, status: int
) -> None:
    site.replies.extend([Reply(status)] * 3)
    sleeps = Sleeps()
    async with delivery(site.url, sleeps) as found:
        assert await found.deliver(BODY, 60) is not None
        assert (found.taken, found.failed) == (1, 3)
    assert sleeps.slept == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 500])
async def test_what_is_refused_for_good_is_given_up(site: Collector, status: int) -> None:
    site.reply = Reply(status, {"Location": site.url + "/elsewhere"})
    sleeps = Sleeps()
    async with delivery(site.url, sleeps) as found:
        assert await found.deliver(BODY, 60) is None
        assert (found.taken, found.failed, found.is_failing) == (0, 1, True)
    assert sleeps.slept == []
    assert len(site.posts) == 1


async def test_it_is_given_up_after_its_time(site: Collector) -> None:
    site.reply = Reply(503)
    async with delivery(site.url) as found:
        assert await found.deliver(BODY, 0.9) is None  # the first wait would be 1 s
        assert found.failed == 1


async def test_waits_are_bounded_and_partly_chance(site: Collector) -> None:
    site.replies.extend([Reply(503)] * 8)
    sleeps = Sleeps()
    async with delivery(site.url, sleeps) as found:
        found._chance = lambda: 0.0
        assert await found.deliver(BODY, 1000) is not None
    assert sleeps.slept[:3] == [0.75, 1.5, 3.0]
    assert max(sleeps.slept) == 0.75 * DELAY_MAX


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        pytest.param(lambda: "7", 7, 7, id="seconds"),
        pytest.param(lambda: date(100), 60, 101, id="date"),
        pytest.param(lambda: "99999", REST_MAX, REST_MAX, id="too long"),
    ],
)
async def test_a_retry_after_is_kept(
    site: Collector, given: Callable[[], str], least: float, most: float
) -> None:
    site.replies.append(Reply(429, {"Retry-After": given()}))  # a date counts from now
    sleeps = Sleeps()
    async with delivery(site.url, sleeps) as found:
        assert await found.deliver(BODY, 1000) is not None
        assert least <= sleeps.slept[0] <= most
        # Others that go there wait as well.
        assert await found.deliver(BODY, 1) is None
    assert len(site.posts) == 2


async def test_a_collector_that_is_down(site: Collector, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site.close()
    async with delivery(site.url) as found:
        assert await found.deliver(BODY, 0) is None
        assert await found.deliver(BODY, 0) is None
        assert (found.failed, found.is_failing) == (2, True)
        again = Collector(site.port)
        try:
            assert await found.deliver(BODY, 0) is not None
        finally:
            again.close()
        assert not found.is_failing
    said = [record.message.partition(" url=")[0] for record in caplog.records]
    assert said == [
        "the collector does not take what it gets",
        "the collector takes what it gets again",
    ]


async def test_a_slow_collector_holds_nobody_up(site: Collector) -> None:
    site.reply = Reply(delay=3.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async with delivery(site.url, patience=1.5) as found:
        task = asyncio.create_task(others())
        assert await found.deliver(BODY, 0) is None
        task.cancel()
        assert found.failed == 1
    assert turns > 5


def test_what_the_collector_did_not_take_is_understood() -> None:
    answer = ExportTraceServiceResponse()
    assert partial(ExportTraceServiceResponse, answer.SerializeToString()) is None
    assert partial(ExportTraceServiceResponse, b"<html>") is None
    answer.partial_success.rejected_spans = 3
    said = partial(ExportTraceServiceResponse, answer.SerializeToString())
    assert said is not None and said.rejected_spans == 3
