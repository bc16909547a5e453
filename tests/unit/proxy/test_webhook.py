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

from proxy_engine.hooks import DevicePresence, ServerEvent, TunnelPresence
from proxy_engine.hooks.builtin import webhook
from proxy_engine.hooks.builtin.http_post import poster
from proxy_engine.hooks.builtin.webhook import Webhook


def gone(device: str) -> DevicePresence:
    return DevicePresence(at=100.5, device=device, device_id=7, address="::1", reason="closed")


class Site:
    """A webhook whose receiver answers as it is told, and whose sleeps take no time."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[bytes, Mapping[str, str]]] = []
        self.slept: list[float] = []
        self.hook = Webhook(
            "http://receiver/", "s3cret", post=self.post, clock=lambda: 1234.9, sleep=self.sleep
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        assert url == "http://receiver/"
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
    site.hook.on_device_offline(gone("pi"))
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
    assert webhook.signature("", 1, b"x") == ""


async def test_what_fails_is_sent_again_ever_more_slowly_and_in_order() -> None:
    site = Site(500, 0, 301, 200)
    site.hook.on_device_offline(gone("pi"))
    site.hook.on_device_offline(gone("po"))
    await site.run()
    bodies = [body for body, _ in site.got]
    assert [json.loads(body)["device"] for body in bodies] == ["pi", "pi", "pi", "pi", "po"]
    assert len(set(bodies)) == 2  # the same id each time
    assert site.slept == [1.0, 2.0, 4.0]
    assert (site.hook.sent, site.hook.failed, site.hook.dropped) == (2, 3, 0)


async def test_after_the_last_try_an_event_is_dropped_and_counted() -> None:
    site = Site(503)
    site.hook.on_device_offline(gone("pi"))
    await site.run()
    assert len(site.got) == webhook.TRIES_MAX
    assert max(site.slept) <= webhook.DELAY_MAX
    assert (site.hook.sent, site.hook.dropped) == (0, 1)


async def test_only_so_many_events_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "QUEUE_MAX", 2)
    site = Site(200)
    for name in ("a", "b", "c"):
        site.hook.on_device_offline(gone(name))
    await site.run()
    assert [json.loads(body)["device"] for body, _ in site.got] == ["b", "c"]
    assert site.hook.dropped == 1


async def test_what_waits_when_the_program_ends_is_sent() -> None:
    site = Site(200)
    task = asyncio.create_task(site.hook.run())
    await site.hook.close()  # nothing waits: at once
    for name in ("a", "b"):
        site.hook.on_device_offline(gone(name))
    await site.hook.close()
    assert (site.hook.sent, site.hook.dropped) == (2, 0)
    task.cancel()


async def test_what_can_not_be_sent_in_time_is_counted() -> None:
    site = Site(503)
    site.hook._sleep = asyncio.sleep
    task = asyncio.create_task(site.hook.run())
    for name in ("a", "b", "c"):
        site.hook.on_device_offline(gone(name))
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
    async with poster() as post:
        async with TestServer(app) as server:
            url = str(server.make_url("/hook"))
            assert await post(url, b"one", {"X": "1"}) == 202
            assert await post(url, b"two", {"X": "2"}) == 302
        assert await post(url, b"three", {"X": "1"}) == 0  # nobody is there any more
        assert await post("no url", b"four", {}) == 0
    assert got == [b"one", b"two"]


async def test_tunnels_are_told_to_who_wants_them() -> None:
    site = Site(204)
    event = TunnelPresence(at=1, tunnel="web", tunnel_id=2, kind="http", port=None, device_id=7)
    site.hook.on_tunnel_online(event)
    site.hook._events = frozenset(["device.offline"])
    site.hook.on_tunnel_offline(event)
    await site.run()
    [(body, _)] = site.got
    assert json.loads(body)["type"] == "tunnel.online"
    with pytest.raises(ValueError, match=r'"tunnel.open" is none of: device.online, '):
        Webhook(events=["tunnel.open"])


async def test_as_a_hook_it_begins_and_ends_with_the_server() -> None:
    site = Site(204)
    event = ServerEvent(at=0, url="", admin="", domain="", version="")
    await site.hook.on_server_start(event)
    site.hook.on_device_online(gone("a"))
    await site.hook.on_server_stop(event)
    assert site.hook.stats() == {"sent": 1, "failures": 0, "dropped": 0}
