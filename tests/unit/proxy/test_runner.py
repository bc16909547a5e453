from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_engine import runner
from proxy_engine.errors import UsageError
from proxy_engine.runner import EngineRunner, make_engine
from proxy_engine.settings.config import Settings


class ReadyEngine:
    """An engine with a real eventfd and whatever events the test puts in."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.events: list[Any] = []
        self.records = b""
        self.grace_ms = -1
        self.stops = 0

    def wake(self) -> None:
        os.eventfd_write(self.event_fd, 1)

    def start(self) -> None:
        pass

    def poll(self, limit: int) -> list[Any]:
        assert self.stops == 0
        with contextlib.suppress(BlockingIOError):  # as in the engine: this takes the signal away
            os.eventfd_read(self.event_fd)
        taken, self.events = self.events[:limit], self.events[limit:]
        return taken

    def poll_log_batch(self, limit: int) -> bytes:
        taken, self.records = self.records[:limit], self.records[limit:]
        if self.records:
            self.wake()
        return taken

    def drain(self, grace_ms: int) -> None:
        self.grace_ms = grace_ms
        self.events.append((7,))
        self.wake()

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def ready() -> Iterator[Any]:
    engine = ReadyEngine()
    yield engine
    os.close(engine.event_fd)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_events_and_records_are_handed_over_in_batches(
    ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "EVENTS_PER_TURN", 2)
    monkeypatch.setattr(runner, "LOG_BYTES_PER_TURN", 3)
    seen: list[Any] = []
    batches: list[bytes] = []
    running = EngineRunner(ready, seen.append, batches.append)
    running.start()
    ready.events = [(1, n) for n in range(5)]
    ready.records = b"1234567"
    ready.wake()  # once: what does not fit one turn must not be forgotten
    await turns()
    assert seen == [(1, n) for n in range(5)]
    assert batches == [b"123", b"456", b"7"]
    await running.stop()


async def test_a_handler_that_fails_does_not_stop_the_others(ready: Any) -> None:
    seen: list[Any] = []

    def handle(event: Any) -> None:
        if event[1] == 0:
            raise RuntimeError("a bug")
        seen.append(event)

    running = EngineRunner(ready, handle)
    running.start()
    ready.events = [(1, 0), (1, 1)]
    ready.wake()
    await turns()
    assert seen == [(1, 1)]
    await running.stop()


async def test_a_drain_ends_with_the_engines_word(ready: Any) -> None:
    running = EngineRunner(ready, lambda event: None)
    running.start()
    await asyncio.wait_for(running.drain(1.5), 5)
    assert ready.grace_ms == 1500
    await running.stop()


async def test_records_of_requests_cut_off_by_the_stop_are_kept(ready: Any) -> None:
    records: list[bytes] = []
    running = EngineRunner(ready, lambda event: None, records.append)
    running.start()
    ready.records = b"123"
    await running.stop()
    await running.stop()
    assert records == [b"123"]
    assert ready.stops == 1


def test_an_unknown_engine_option_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown engine option"):
        make_engine("server", Settings(engine={"no_such_option": 1}))


@pytest.mark.parametrize(
    ("role", "settings", "cores", "workers"),
    [
        ("server", Settings(), 3, 3),
        ("server", Settings(), 4096, 64),
        ("server", Settings(workers=5), 3, 5),
        ("agent", Settings(), 3, 1),
        ("agent", Settings(workers=5), 3, 5),
    ],
)
def test_a_server_has_a_worker_for_each_core_it_may_use_and_an_agent_one(
    monkeypatch: pytest.MonkeyPatch, role: str, settings: Settings, cores: int, workers: int
) -> None:
    made = []
    monkeypatch.setattr(runner, "Engine", lambda role, workers: made.append((role, workers)))
    monkeypatch.setattr(runner, "WORKERS_MAX", 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    make_engine(role, settings)
    assert made == [(role, workers)]
