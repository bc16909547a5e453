"""The contract of storage.history."""

from __future__ import annotations

import pytest

from proxy_engine.storage import AuditRecord, DeviceEvent, Presence, Store


def event(device_id: int, at: float, kind: Presence = "online") -> DeviceEvent:
    return DeviceEvent(device_id=device_id, at=at, kind=kind, address="::1", reason="r")


def record(action: str) -> AuditRecord:
    return AuditRecord(
        at=1.5, actor="root", address="::1", action=action, subject="pi", detail="name"
    )


async def test_a_device_has_its_history_newest_first(store: Store) -> None:
    pi, po = await store.device_add("pi", {}, 1.0), await store.device_add("po", {}, 1.0)
    await store.device_events_add([event(pi.id, 1.5), event(po.id, 2.0), event(pi.id, 3.0)])
    await store.device_events_add([event(pi.id, 4.0, "offline")])
    await store.device_events_add([])
    found = await store.device_events(pi.id, 10)
    assert [(each.at, each.kind) for each in found] == [
        (4.0, "offline"), (3.0, "online"), (1.5, "online"),
    ]  # fmt: skip
    assert (found[0].address, found[0].reason, found[0].device_id) == ("::1", "r", pi.id)
    assert await store.device_events(pi.id, 2) == found[:2]
    assert await store.device_events(pi.id, 10, before=found[0].id) == found[1:]
    assert [each.at for each in await store.device_events(po.id, 10)] == [2.0]


async def test_only_so_much_history_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("sqlite", "mongo"):
        monkeypatch.setattr(f"proxy_engine.storage.{backend}.history.DEVICE_EVENTS_MAX", 3)
        monkeypatch.setattr(f"proxy_engine.storage.{backend}.history.AUDIT_MAX", 3)
    pi = await store.device_add("pi", {}, 1.0)
    for at in range(5):
        await store.device_events_add([event(pi.id, at)])
    assert [each.at for each in await store.device_events(pi.id, 10)] == [4.0, 3.0, 2.0]
    for number in range(5):
        await store.audit_begin(record(f"a{number}"))
    assert [each.action for each in await store.audit(10)] == ["a4", "a3", "a2"]


async def test_an_audit_record_is_there_before_its_outcome(store: Store) -> None:
    first = await store.audit_begin(record("one"))
    second = await store.audit_begin(record("two"))
    await store.audit_end(first, "ok")
    found = await store.audit(10)
    assert [(each.id, each.action, each.outcome) for each in found] == [
        (second, "two", ""), (first, "one", "ok"),
    ]  # fmt: skip
    assert (found[0].at, found[0].actor, found[0].subject, found[0].detail) == (
        1.5, "root", "pi", "name",
    )  # fmt: skip
    assert await store.audit(1) == found[:1]
    assert await store.audit(10, before=second) == found[1:]
