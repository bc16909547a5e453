"""Requests under way: asked of the engine, put together, filtered and named."""

from __future__ import annotations

import asyncio

import pytest

from proxy_engine.requests import under_way as open_requests
from proxy_engine.requests.redaction import Redactor
from proxy_engine.requests.under_way import OpenRequests
from proxy_engine.storage import RequestQuery
from proxy_engine_core import log_batch
from proxy_engine_core.core import LOG_OPEN, LogRecord
from tests.unit.proxy.fake_engine import FakeEngine

SECOND = 1_000_000


def record(path: str, seconds: int, *, device: int = 7, route: int = 1) -> LogRecord:
    """A request that began this long before the moment 1000."""
    return LogRecord(
        time_us=1000 * SECOND, route=route, device=device, request_id=f"id{path}", visitor="::1",
        method="GET", host="web.test", path=path, status=0, reason="", flags=LOG_OPEN, bytes_in=10,
        bytes_out=0, total_us=seconds * SECOND, first_byte_us=0, target_us=0,
    )  # fmt: skip


class Engine(FakeEngine):
    def __init__(self) -> None:
        super().__init__(workers=2)
        self.asked: list[tuple[int, int]] = []

    def requests_open(self, query: int, limit: int) -> None:
        self.asked.append((query, limit))


def make(engine: Engine) -> OpenRequests:
    return OpenRequests(
        engine,  # type: ignore[arg-type]
        tunnels=lambda: {1: "web", 2: "api"},
        devices=lambda: {7: "pi"},
        redact=Redactor(),
    )


async def found(opened: OpenRequests, engine: Engine, limit: int = 10, **query: str) -> list[str]:
    task = asyncio.create_task(opened.find(RequestQuery(**query), limit))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    number = engine.asked[-1][0]
    opened.on_event(number, log_batch.pack([record("/a", 5)]), False)
    opened.on_event(12345, log_batch.pack([record("/other", 5)]), True)
    opened.on_event(number, log_batch.pack([record("/b?token=abc", 9, route=2)]), True)
    assert not task.done()
    opened.on_event(number, log_batch.pack([record("/c", 1, device=0)]), True)
    requests = await task
    assert all(request.state == "open" and request.id == 0 for request in requests)
    return [f"{request.device}/{request.tunnel}{request.path}" for request in requests]


async def test_what_all_workers_tell_is_sorted_named_and_without_secrets() -> None:
    engine = Engine()
    opened = make(engine)
    assert await found(opened, engine) == ["pi/api/b?token=[redacted]", "pi/web/a", "None/web/c"]
    assert await found(opened, engine, limit=2) == ["pi/web/a", "None/web/c"]
    assert await found(opened, engine, limit=0) == []


async def test_all_filters_hold() -> None:
    engine = Engine()
    opened = make(engine)
    assert await found(opened, engine, tunnel="web", device="pi") == ["pi/web/a"]
    assert await found(opened, engine, device="nobody") == []
    assert await found(opened, engine, path="/C", state="open") == ["None/web/c"]
    assert await found(opened, engine, state="closed") == []
    assert await found(opened, engine, request_id="id/a") == ["pi/web/a"]
    assert await found(opened, engine, path="abc") == []  # nobody finds a secret by trying


async def test_an_engine_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_requests, "PATIENCE", 0.01)
    engine = Engine()
    opened = make(engine)
    with pytest.raises(TimeoutError):
        await opened.find(RequestQuery(), 10)
    opened.on_event(engine.asked[0][0], b"", True)  # too late is no error
