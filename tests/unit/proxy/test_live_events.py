from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from proxy_engine.live_events import QUEUE_MAX, RECORDS_MAX, LiveEvents, Topic
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

ALL: frozenset[Topic] = frozenset(("requests", "devices", "metrics"))


def record(path: str = "/x") -> LogRecord:
    return LogRecord(1, 1, 2, "r1", "::1", "GET", "h", path, 200, "", 0, 1, 2, 3, 4, 5)


@pytest.fixture
def events() -> LiveEvents:
    return LiveEvents(
        redact=lambda path: path.replace("secret", "***"),
        tunnel_name={1: "web"}.get,
        device_name={2: "pi"}.get,
    )


async def test_requests_have_names_and_no_secrets(events: LiveEvents) -> None:
    with events.subscribe(ALL) as subscriber:
        events.requests(log_batch.pack([record("/secret")]))
        found: Any = msgspec.json.decode(*await subscriber.get())
    assert (found["type"], found["path"]) == ("request", "/***")
    assert (found["tunnel"], found["device"], found["status"]) == ("web", "pi", 200)


async def test_only_what_was_asked_for_comes(events: LiveEvents) -> None:
    with events.subscribe(frozenset(("devices",))) as subscriber:
        events.requests(b"not even looked at")
        events.device("pi", "up", 1, "::1")
        assert b'"device"' in (await subscriber.get())[0]
    assert len(events) == 0
    events.device("pi", "down", 0, "::1")


async def test_who_reads_too_slowly_misses_events_and_is_told(events: LiveEvents) -> None:
    with events.subscribe(ALL) as slow, events.subscribe(ALL) as quick:
        for number in range(QUEUE_MAX + 7):
            events.device("pi", "up", number, "::1")
            await quick.get()
        for number in range(QUEUE_MAX):
            assert msgspec.json.decode(*await slow.get())["links"] == number
        assert msgspec.json.decode(*await slow.get()) == {"type": "dropped", "count": 7}
        assert events.dropped == 7
        events.device("pi", "down", 0, "::1")
        assert b'"down"' in (await slow.get())[0]


async def test_events_come_by_the_dozen(events: LiveEvents) -> None:
    with events.subscribe(ALL) as subscriber:
        for number in range(5):
            events.device("pi", "up", number, "::1")
        for size in (3, 2):
            assert len(await subscriber.get(3)) == size


async def test_a_large_batch_is_not_unpacked_whole(events: LiveEvents) -> None:
    with events.subscribe(ALL) as subscriber:
        events.requests(log_batch.pack([record()] * (RECORDS_MAX + 3)))
        for _ in range(RECORDS_MAX):
            assert b'"request"' in (await subscriber.get())[0]
        assert msgspec.json.decode(*await subscriber.get())["count"] == 3
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(subscriber.get(), 0.01)
