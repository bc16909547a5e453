from __future__ import annotations

import pytest

from proxy_engine.errors import StorageError, UsageError
from proxy_engine.grants import ANY, UNLIMITED
from proxy_engine.links import devices
from proxy_engine.links.devices import Registry
from proxy_engine.links.table import Link
from proxy_engine.storage import DeviceEvent, Sighting
from proxy_engine.storage.sqlite import SqliteStore


class Site:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.now = 100.0
        self.told: list[tuple[str, str]] = []
        self.registry = Registry(store, clock=lambda: self.now, notify=self.notify)

    def notify(self, name: str, event: DeviceEvent) -> None:
        self.told.append((name, event.kind))

    def link(self, device_id: int, peer: str = "1.2.3.4:5") -> Link:
        return Link(
            device_id=device_id, device=f"d{device_id}", peer=peer, token_id=1, token="t",
            digest=b"", scopes=ANY, limits=UNLIMITED, expires_at=None, instance="i", number=1,
            is_agent=True, may_have_more=False, worker=0, since=self.now,
        )  # fmt: skip


@pytest.fixture
async def site(store: SqliteStore) -> Site:
    for number in (1, 2):
        await store.device_add(f"d{number}", {}, 1.0)
    return Site(store)


async def test_a_device_is_online_from_its_first_link_to_its_last(site: Site) -> None:
    first, second = site.link(1), site.link(1)
    site.registry.link_up(first)
    site.now = 110.0
    site.registry.link_up(second)
    assert site.registry.online_since(1) == 100.0
    site.registry.link_down(first, "closed", is_last=False)
    assert site.registry.online_since(1) == 100.0
    site.now = 120.0
    site.registry.link_down(second, "ping_timeout", is_last=True)
    assert site.registry.online_since(1) is None
    await site.registry.write()
    found = await site.store.device_events(1, 10)
    assert [(each.kind, each.at, each.address, each.reason) for each in found] == [
        ("offline", 120.0, "1.2.3.4", "ping_timeout"), ("online", 100.0, "1.2.3.4", ""),
    ]  # fmt: skip
    assert site.told == [("d1", "online"), ("d1", "offline")]


async def test_what_is_seen_is_written_once(site: Site) -> None:
    link = site.link(1, "[2001:db8::1]:77")
    site.registry.link_up(link)
    link.agent, link.platform = "a/1", "Linux"
    site.registry.registered(link)
    site.registry.count({1: (3, 10, 20), 0: (9, 9, 9)})
    site.registry.count({1: (1, 1, 1), 2: (1, 2, 3)})
    await site.registry.write()
    await site.registry.write()
    first, second = await site.store.devices()
    assert (first.address, first.agent, first.platform) == ("2001:db8::1", "a/1", "Linux")
    assert (first.links, first.requests, first.bytes_in, first.bytes_out) == (1, 4, 11, 21)
    assert (first.first_seen_at, second.first_seen_at) == (100.0, None)
    assert (second.requests, second.bytes_in, second.bytes_out) == (1, 2, 3)
    assert len(await site.store.device_events(1, 10)) == 1


async def test_what_a_failing_store_did_not_take_is_written_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StorageError("no")

    site.registry.link_up(site.link(1))
    site.registry.count({1: (1, 0, 0)})
    with monkeypatch.context() as broken:
        broken.setattr(site.store, "seen", fail)
        with pytest.raises(StorageError):
            await site.registry.write()
    site.registry.count({1: (1, 0, 0)})
    with monkeypatch.context() as broken:
        broken.setattr(site.store, "device_events_add", fail)
        with pytest.raises(StorageError):
            await site.registry.write()
    await site.registry.write()
    [device, _] = await site.store.devices()
    assert (device.requests, device.links, device.address) == (2, 1, "1.2.3.4")
    assert len(await site.store.device_events(1, 10)) == 1


async def test_only_so_many_events_wait_for_the_store(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "EVENTS_MAX", 2)
    link = site.link(1)
    for _ in range(2):
        site.registry.link_up(link)
        site.registry.link_down(link, "closed", is_last=True)
    assert site.registry.events_dropped == 2
    await site.registry.write()
    assert len(await site.store.device_events(1, 10)) == 2


async def test_when_the_server_ends_all_are_offline(site: Site) -> None:
    site.registry.link_up(site.link(1))
    await site.registry.close({1: "pi"})
    newest = (await site.store.device_events(1, 10))[0]
    assert (newest.kind, newest.reason) == ("offline", "server_stopped")


def test_labels_are_checked() -> None:
    devices.check_labels({"site/floor": "3. Stock", "x": ""})
    for labels in ({"": "x"}, {"a b": "x"}, {"a": "x\n"}, {"a": "x" * 256}, {"-": "x"},
                   {str(n): "" for n in range(33)}):  # fmt: skip
        with pytest.raises(UsageError):
            devices.check_labels(labels)


def test_two_sightings_add_up() -> None:
    first = Sighting(at=1.0, address="a", agent="x", links=1, bytes_in=5)
    later = Sighting(address="b", requests=2, bytes_in=1)
    assert devices._sum(first, later) == Sighting(
        at=1.0, address="b", agent="x", links=1, requests=2, bytes_in=6
    )
