"""What becomes an event of hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from proxy_engine.hook_feed import GONE_MAX, HookFeed
from proxy_engine.hooks import (
    DeviceDisconnect,
    DevicePresence,
    Hook,
    Request,
    TunnelClose,
    TunnelData,
    TunnelPresence,
    inline,
)
from proxy_engine.hooks.manager import Manager
from proxy_engine.storage import DeviceEvent, Tunnel
from proxy_engine.tunnels.routes import TunnelTable
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

WEB = Tunnel(id=7, name="web", kind="http", device_id=3, created_at=0.0)


class Seen(Hook):
    def __init__(self) -> None:
        self.events: list[object] = []
        self.requests: list[Request] = []
        self.data: list[TunnelData] = []

    @inline
    def on_device_online(self, event: DevicePresence) -> None:
        self.events.append(("online", event.device))

    @inline
    def on_device_offline(self, event: DevicePresence) -> None:
        self.events.append(("offline", event.device, event.reason))

    @inline
    def on_device_disconnect(self, event: DeviceDisconnect) -> None:
        self.events.append(("disconnect", event.device, event.links))

    @inline
    def on_tunnel_online(self, event: TunnelPresence) -> None:
        self.events.append(("tunnel online", event.tunnel))

    @inline
    def on_tunnel_offline(self, event: TunnelPresence) -> None:
        self.events.append(("tunnel offline", event.tunnel))

    @inline
    def on_tunnel_close(self, event: TunnelClose) -> None:
        self.events.append(("close", event.tunnel, event.device, event.links))

    @inline
    def on_request(self, requests: Sequence[Request]) -> None:
        self.requests += requests

    @inline
    def on_data(self, data: Sequence[TunnelData]) -> None:
        self.data += data


def record(number: int) -> LogRecord:
    return LogRecord(
        1_500_000, 7, 3, f"r{number}", "::1", "GET", "web.localhost", "/?token=x", 200, "", 4, 5, 6,
        7000, 8000, 9000,
    )  # fmt: skip


class Site:
    def __init__(self, *hooks: Hook) -> None:
        self.now = 100.0
        self.seen = Seen()
        self.feed = HookFeed(
            Manager([self.seen, *hooks]), redact=lambda path: path[:2], clock=lambda: self.now
        )
        self.table = TunnelTable(
            domain="localhost", port=80, notify=self.feed.tunnel, closed=self.feed.tunnel_closed
        )
        self.online = {3: "pi"}
        self.feed.watch(self.table, self.online.get)


def test_a_tunnel_that_comes_and_goes_is_told_once_and_closed_by_each_link() -> None:
    site = Site()
    site.feed.device("pi", DeviceEvent(device_id=3, at=1, kind="online", address="", reason=""))
    site.table.learn([WEB])
    site.table.serve(1, [WEB])
    site.table.serve(2, [WEB])
    site.table.serve(2, [WEB])  # again: nothing is new
    site.table.serve(3, [WEB], instead_of=[1])
    for link in (1, 2, 3):
        site.table.withdraw(link)
    site.table.withdraw(3)
    site.feed.device(
        "pi",
        DeviceEvent(device_id=3, at=1, kind="offline", address="", reason="closed"),
    )
    assert site.seen.events == [
        ("online", "pi"),
        ("tunnel online", "web"),
        ("close", "web", "pi", 2),
        ("close", "web", "pi", 1),
        ("close", "web", "pi", 0),
        ("tunnel offline", "web"),
        ("offline", "pi", "closed"),
    ]


def test_a_tunnel_that_is_deleted_while_it_is_served_goes_offline() -> None:
    site = Site()
    site.table.learn([WEB])
    site.table.serve(1, [WEB])
    site.table.serve(2, [WEB])
    site.table.drop(WEB)
    site.table.withdraw(1)
    assert site.seen.events[1:] == [
        ("close", "web", "pi", 1), ("close", "web", "pi", 0), ("tunnel offline", "web"),
    ]  # fmt: skip


def test_requests_have_names_and_seconds_and_no_secrets() -> None:
    site = Site()
    site.table.load([WEB])
    site.feed.device("pi", DeviceEvent(device_id=3, at=1, kind="online", address="", reason=""))
    site.feed.requests(log_batch.pack([record(1)]))
    assert site.seen.requests == [
        Request(
            at=1.5,
            request_id="r1",
            tunnel="web",
            device="pi",
            visitor="::1",
            method="GET",
            host="web.localhost",
            path="/?",
            status=200,
            reason="",
            bytes_in=5,
            bytes_out=6,
            seconds=0.007,
            first_byte_seconds=0.008,
            target_seconds=0.009,
            flags=4,
        )
    ]


def test_a_device_that_went_is_named_a_little_longer() -> None:
    site = Site()
    for device in range(3, 3 + GONE_MAX + 1):
        site.online.pop(device, None)
        went = DeviceEvent(device_id=device, at=1, kind="offline", address="", reason="")
        site.feed.device(f"d{device}", went)
        if device == 3:
            site.feed.requests(log_batch.pack([record(1)]))
    site.feed.requests(log_batch.pack([record(2)]))
    site.online[3] = "pi"
    site.feed.requests(log_batch.pack([record(3)]))
    assert [request.device for request in site.seen.requests] == ["d3", None, "pi"]


def test_nothing_is_kept_of_a_tunnel_that_moved_nothing_or_is_gone() -> None:
    site = Site()
    api = msgspec.structs.replace(WEB, id=8, name="api")
    site.table.load([WEB, api])
    site.feed.data({7: (1, 1), 8: (0, 0)})
    assert vars(site.feed)["_bytes"].keys() == {7}
    site.table.drop(WEB)
    site.feed.data({7: (2, 2), 8: (0, 0)})
    assert not vars(site.feed)["_bytes"]
    assert [each.tunnel for each in site.seen.data] == ["web"]


def test_one_request_in_so_many_is_told_whatever_the_batches() -> None:
    class Sampled(Seen):
        sample = 3

    sampled = Sampled()
    site = Site(sampled)
    number = 0
    for size in (1, 1, 5, 2, 1, 3):
        site.feed.requests(log_batch.pack([record(number + index) for index in range(size)]))
        number += size
    assert [request.request_id for request in sampled.requests] == ["r0", "r3", "r6", "r9", "r12"]
    assert len(site.seen.requests) == 13


async def test_hooks_share_what_is_unpacked_once_and_only_if_somebody_looks() -> None:
    got: list[Sequence[Request]] = []

    class Looks(Hook):
        async def on_request(self, requests: Sequence[Request]) -> None:
            got.append(requests)

    hooks = Manager([Looks(), Looks()])
    feed = HookFeed(hooks, redact=str)
    feed.requests(log_batch.pack([record(1), record(2)]))
    async with asyncio.timeout(5):
        while len(got) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert got[0] is got[1]
    assert len(got[0]) == 2
    assert vars(got[0])["_found"] is None  # len() is free
    assert got[0][1].request_id == "r2"
    assert got[0][1] is got[1][1]


def test_bytes_are_told_since_the_last_time_and_only_where_there_are_any() -> None:
    site = Site()
    site.table.load([WEB])
    site.now = 105.0
    site.feed.data({7: (10, 20), 99: (1, 1)})
    site.now = 110.0
    site.feed.data({7: (10, 20)})
    site.now = 115.0
    site.feed.data({7: (15, 20)})
    assert [
        (each.tunnel, each.bytes_in, each.bytes_out, each.total_in, each.total_out, each.seconds)
        for each in site.seen.data
    ] == [("web", 10, 20, 10, 20, 5.0), ("web", 5, 0, 15, 20, 10.0)]


def test_nobody_who_listens_costs_nothing() -> None:
    site = Site()
    site.feed = HookFeed(Manager([]), redact=str)
    site.feed.requests(b"not even looked at")
