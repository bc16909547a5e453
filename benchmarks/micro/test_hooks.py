"""What it costs to tell a hook something: microseconds for each event and hook, one core.

A dispatch is what the event loop pays: tell() and, for async hooks, the call itself. Plain
methods run in their thread at the same time and are waited for at the end of a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy_engine.hook_feed import HookFeed
from proxy_engine.hooks import DevicePresence, Hook, inline
from proxy_engine.hooks.manager import Manager
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

EVENTS = 2000
HOOKS = 5
EVENT = DevicePresence(at=0, device="pi", device_id=1, address="::1", reason="")
RECORD = LogRecord(1, 7, 3, "id", "::1", "GET", "web", "/", 200, "", 4, 5, 6, 7, 8, 9)


class Inline(Hook):
    @inline
    def on_device_online(self, event: DevicePresence) -> None:
        pass


class Async(Hook):
    async def on_device_online(self, event: DevicePresence) -> None:
        pass


class Plain(Hook):
    def on_device_online(self, event: DevicePresence) -> None:
        pass


class Requests(Hook):
    async def on_request(self, requests) -> None:
        len(requests)


def measure(benchmark, name: str, hooks: int, run: Callable[[], object]) -> None:
    benchmark.group = name
    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    each = benchmark.stats.stats.min / EVENTS / max(1, hooks) * 1e6
    benchmark.extra_info["us_per_event_and_hook"] = round(each, 3)


@pytest.mark.parametrize("kind", [Inline, Async, Plain])
def test_an_event_is_told(benchmark, kind: type[Hook]) -> None:
    async def tell(manager: Manager) -> None:
        for _ in range(EVENTS):
            manager.tell("on_device_online", EVENT)
        await asyncio.gather(*(seat.told.settle(60) for seat in manager._seats))

    with asyncio.Runner() as runner:
        manager = Manager([kind() for _ in range(HOOKS)])
        measure(benchmark, "hooks", HOOKS, lambda: runner.run(tell(manager)))
        assert manager.stats()["hook_dropped"] == 0


def test_an_event_that_nobody_wants(benchmark) -> None:
    manager = Manager([Inline() for _ in range(HOOKS)])

    def tell() -> None:
        for _ in range(EVENTS):
            manager.tell("on_tunnel_online", EVENT)

    measure(benchmark, "hooks: none", 1, tell)


@pytest.mark.parametrize("records", [1, 1000])
def test_a_batch_of_requests_is_told(benchmark, records: int) -> None:
    # Packed: what a batch costs does not grow with the requests in it but for counting them.
    batch = log_batch.pack([RECORD] * records)

    async def tell(manager: Manager, feed: HookFeed) -> None:
        for _ in range(EVENTS):
            feed.requests(batch)
            await asyncio.sleep(0)
        await asyncio.gather(*(seat.told.settle(60) for seat in manager._seats))

    with asyncio.Runner() as runner:
        manager = Manager([Requests() for _ in range(HOOKS)])
        feed = HookFeed(manager, redact=str)
        measure(benchmark, "hooks: batches", HOOKS, lambda: runner.run(tell(manager, feed)))
