from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy_engine import hooks
from proxy_engine.api.hook_client import poster
from proxy_engine.hooks import Webhook
from proxy_engine.storage import DeviceEvent

EVENT = DeviceEvent(device_id=7, at=100.5, kind="offline", address="::1", reason="closed")


class Site:
    """A webhook whose receiver answers as it is told, and whose sleeps take no time."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[bytes, Mapping[str, str]]] = []
        self.slept: list[float] = []
        self.hook = Webhook(self.post, "s3cret", clock=lambda: 1234.9, sleep=self.sleep)

    async def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        self.got.append((body, headers))
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    async def run(self) -> None:
        task = asyncio.create_task(self.hook.run())
        for _ in range(200):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_event_is_signed_json() -> None:
    site = Site(204)
    site.hook.put("pi", EVENT)
    await site.run()
    [(body, headers)] = site.got
    said = json.loads(body)
    assert len(said.pop("id")) == 32
    assert said == {
        "type": "device.offline", "time": 100.5, "device": "pi", "device_id": 7,
        "address": "::1", "reason": "closed",
    }  # fmt: skip
    code = hmac.new(b"s3cret", b"1234." + body, hashlib.sha256).hexdigest()
    assert headers["Proxy-Engine-Signature"] == f"t=1234,v1={code}"
    assert site.hook.sent == 1


async def test_without_a_secret_there_is_no_signature() -> None:
    assert hooks.signature("", 1, b"x") == ""


async def test_what_fails_is_sent_again_ever_more_slowly_and_in_order() -> None:
    site = Site(500, 0, 301, 200)
    site.hook.put("pi", EVENT)
    site.hook.put("po", EVENT)
    await site.run()
    bodies = [body for body, _ in site.got]
    assert [json.loads(body)["device"] for body in bodies] == ["pi", "pi", "pi", "pi", "po"]
    assert len(set(bodies)) == 2  # the same id each time
    assert site.slept == [1.0, 2.0, 4.0]
    assert (site.hook.sent, site.hook.failed, site.hook.dropped) == (2, 3, 0)


async def test_after_the_last_try_an_event_is_dropped_and_counted() -> None:
    site = Site(503)
    site.hook.put("pi", EVENT)
    await site.run()
    assert len(site.got) == hooks.TRIES_MAX
    assert max(site.slept) <= hooks.DELAY_MAX
    assert (site.hook.sent, site.hook.dropped) == (0, 1)


async def test_only_so_many_events_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "QUEUE_MAX", 2)
    site = Site(200)
    for name in ("a", "b", "c"):
        site.hook.put(name, EVENT)
    await site.run()
    assert [json.loads(body)["device"] for body, _ in site.got] == ["b", "c"]
    assert site.hook.dropped == 1


async def test_what_waits_when_the_program_ends_is_sent() -> None:
    site = Site(200)
    task = asyncio.create_task(site.hook.run())
    await site.hook.close()  # nothing waits: at once
    for name in ("a", "b"):
        site.hook.put(name, EVENT)
    await site.hook.close()
    assert (site.hook.sent, site.hook.dropped) == (2, 0)
    task.cancel()


async def test_what_can_not_be_sent_in_time_is_counted() -> None:
    site = Site(503)
    site.hook._sleep = asyncio.sleep
    task = asyncio.create_task(site.hook.run())
    for name in ("a", "b", "c"):
        site.hook.put(name, EVENT)
    await site.hook.close(0.05)
    assert (site.hook.sent, site.hook.dropped) == (0, 3)
    task.cancel()


async def test_over_http_a_status_or_nothing_comes_back() -> None:
    got: list[bytes] = []

    async def receive(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(status=202 if request.headers["X"] == "1" else 302)

    app = web.Application()
    app.router.add_post("/hook", receive)
    async with TestServer(app) as server:
        url = str(server.make_url("/hook"))
        async with poster(lambda: url) as post:
            assert await post(b"one", {"X": "1"}) == 202
            assert await post(b"two", {"X": "2"}) == 302
    async with poster(lambda: url) as post:  # nobody is there any more
        assert await post(b"three", {"X": "1"}) == 0
    assert got == [b"one", b"two"]
