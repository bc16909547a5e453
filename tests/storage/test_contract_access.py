"""The contract of storage.access, and of the store as a whole."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from proxy_engine.grants import Limits, PortRange, Scopes
from proxy_engine.storage import DeviceEvent, NameTaken, Sighting, Store, Token
from tests.storage.conftest import Backend


async def device_token(store: Store, name: str, device: str | None = None) -> Token:
    return await store.token_add(
        name=name,
        kind="device",
        digest=name.encode().ljust(32),
        device=device or name,
        now=1.0,
        expires_at=None,
    )


async def test_tokens_and_devices_are_there_for_the_next_who_opens(backend: Backend) -> None:
    store = await backend.open()
    made = await device_token(store, "pi")
    admin = await store.token_add(
        name="root", kind="admin", digest=b"r" * 32, device=None, now=2.5, expires_at=9.0
    )
    assert (made.device, made.is_blocked, made.last_used_at) == ("pi", False, None)
    assert (admin.device_id, admin.device, admin.is_blocked) == (None, None, False)
    await store.seen({made.id: 3.0}, {made.device_id or 0: Sighting(at=4.0)})
    await store.close()

    store = await backend.open()
    first, second = await store.tokens()
    assert (first.name, first.digest, first.last_used_at) == ("pi", b"pi".ljust(32), 3.0)
    assert (second.name, second.created_at, second.expires_at) == ("root", 2.5, 9.0)
    [device] = await store.devices()
    assert (device.id, device.name) == (made.device_id, "pi")
    assert (device.created_at, device.last_seen_at, device.is_blocked) == (1.0, 4.0, False)
    await store.close()


async def test_tokens_are_found_by_digest_many_at_once(store: Store) -> None:
    tokens = [await device_token(store, f"d{number}") for number in range(5)]
    wanted = [token.digest for token in tokens[1:4]]
    assert await store.tokens_by_digest([*wanted, b"?" * 32]) == {
        token.digest: token for token in tokens[1:4]
    }
    assert await store.tokens_by_digest([]) == {}


async def test_a_token_name_is_given_once(store: Store) -> None:
    await device_token(store, "pi")
    with pytest.raises(NameTaken):
        await device_token(store, "pi", device="other")
    assert [device.name for device in await store.devices()] == ["pi"]  # and nothing is left over


async def test_two_tokens_of_one_device_made_at_once_share_it(store: Store) -> None:
    made = await asyncio.gather(*(device_token(store, f"t{n}", "pi") for n in range(8)))
    assert len({token.device_id for token in made}) == 1
    assert len({token.id for token in made}) == 8
    assert len(await store.devices()) == 1


async def test_a_token_is_revoked_once(store: Store) -> None:
    await device_token(store, "pi")
    assert not await store.token_revoke("other", 5.0)
    assert await store.token_revoke("pi", 5.0)
    assert not await store.token_revoke("pi", 6.0)
    [token] = await store.tokens()
    assert token.revoked_at == 5.0


async def test_scopes_and_limits_come_back_as_they_were(store: Store) -> None:
    scopes = Scopes(devices=("s-*",), tunnels=(), ports=(PortRange(2000, 2010),))
    limits = Limits(tunnels=3)
    made = await store.token_add(
        name="fleet", kind="device", digest=b"f" * 32, device=None, now=1.0, expires_at=None,
        scopes=scopes, limits=limits,
    )  # fmt: skip
    assert (made.scopes, made.limits, made.device_id) == (scopes, limits, None)
    assert await store.tokens() == [made]


async def test_the_limits_of_a_live_token_change_and_nothing_else(store: Store) -> None:
    made = await device_token(store, "pi")
    await device_token(store, "other")
    limits = Limits(tunnels=2, connections=10, requests=100, bandwidth=20_000_000_000)
    changed = await store.token_change("pi", 5.0, limits=limits)
    assert changed == msgspec.structs.replace(made, limits=limits)
    assert (await store.tokens())[0] == changed
    assert await store.token_change("pi", 5.0, limits=limits) == changed
    assert await store.token_change("pi", 5.0, limits=Limits()) == made
    assert await store.token_change("nobody", 5.0, limits=limits) is None
    await store.token_revoke("pi", 6.0)
    assert await store.token_change("pi", 7.0, limits=limits) is None
    await store.token_add(
        name="short", kind="device", digest=b"s" * 32, device="pi", now=1.0, expires_at=4.0
    )
    assert await store.token_change("short", 4.0, limits=limits) is None


async def test_a_token_is_rotated_and_found_by_both_digests(store: Store) -> None:
    await device_token(store, "pi")
    await device_token(store, "other")
    rotated = await store.token_rotate("pi", b"n" * 32, 5.0, 65.0)
    assert rotated is not None
    assert (rotated.digest, rotated.old_digest) == (b"n" * 32, b"pi".ljust(32))
    assert rotated.old_expires_at == 65.0
    found = await store.tokens_by_digest([b"n" * 32, b"pi".ljust(32)])
    assert found == dict.fromkeys([b"n" * 32, b"pi".ljust(32)], rotated)
    await store.token_rotate("pi", b"m" * 32, 6.0, 66.0)
    assert set(await store.tokens_by_digest([b"m" * 32, b"n" * 32, b"pi".ljust(32)])) == {
        b"m" * 32, b"n" * 32,
    }  # fmt: skip


async def test_a_revoked_or_expired_token_is_not_rotated(store: Store) -> None:
    await device_token(store, "pi")
    await store.token_revoke("pi", 2.0)
    assert await store.token_rotate("pi", b"n" * 32, 5.0, 65.0) is None
    await store.token_add(
        name="short", kind="admin", digest=b"s" * 32, device=None, now=1.0, expires_at=4.0
    )
    assert await store.token_rotate("short", b"n" * 32, 4.0, 65.0) is None
    assert await store.token_rotate("nobody", b"n" * 32, 5.0, 65.0) is None


async def test_a_device_registers_itself_once(store: Store) -> None:
    await device_token(store, "pi")
    fleet = await store.token_add(
        name="fleet", kind="device", digest=b"f" * 32, device=None, now=1.0, expires_at=None
    )
    claims = [("s-1", fleet.id), ("s-2", fleet.id), ("pi", fleet.id)]
    first = await store.devices_claim(claims, 2.0)
    assert {name: device.owner_token_id for name, device in first.items()} == {
        "s-1": fleet.id, "s-2": fleet.id, "pi": None,
    }  # fmt: skip
    assert first["s-1"].created_at == 2.0
    assert await store.devices_claim([("s-1", 99)], 3.0) == {"s-1": first["s-1"]}
    assert await store.devices_claim([], 3.0) == {}
    assert len(await store.devices()) == 3


async def test_what_is_seen_of_a_device_adds_up(store: Store) -> None:
    device = await store.device_add("pi", {}, 1.0)
    first = Sighting(
        at=2.0, address="1.2.3.4", agent="a/1", platform="Linux", links=1, requests=5,
        bytes_in=10, bytes_out=2**40,
    )  # fmt: skip
    await store.seen({}, {device.id: first})
    await store.seen({}, {device.id: Sighting(requests=2, bytes_in=1)})
    await store.seen({}, {device.id: Sighting(at=9.0, address="::1", links=1, bytes_out=1)})
    [found] = await store.devices()
    assert (found.first_seen_at, found.last_seen_at, found.address) == (2.0, 9.0, "::1")
    assert (found.agent, found.platform) == ("a/1", "Linux")
    assert (found.links, found.requests) == (2, 7)
    assert (found.bytes_in, found.bytes_out) == (11, 2**40 + 1)


async def test_a_device_is_made_ahead_and_changed(store: Store) -> None:
    made = await store.device_add("pi", {"site": "a.b/c"}, 1.0)
    assert (made.name, made.labels, made.created_at) == ("pi", {"site": "a.b/c"}, 1.0)
    with pytest.raises(NameTaken):
        await store.device_add("pi", {}, 2.0)
    token = await device_token(store, "t", "pi")
    assert token.device_id == made.id
    changed = await store.device_change("pi", new_name="po", labels={"x": ""}, is_blocked=True)
    assert changed is not None
    assert (changed.id, changed.name, changed.labels) == (made.id, "po", {"x": ""})
    [token] = await store.tokens()
    assert (token.device, token.is_blocked) == ("po", True)
    changed = await store.device_change("po", kicked_at=5.5, is_blocked=False)
    assert changed is not None
    assert (changed.kicked_at, changed.is_blocked, changed.labels) == (5.5, False, {"x": ""})
    assert await store.device_change("po") == changed
    assert await store.devices() == [changed]
    assert await store.device_change("pi", is_blocked=True) is None


async def test_a_device_carries_the_names_of_its_certificates(store: Store) -> None:
    token = await device_token(store, "pi")
    assert token.certificate_names == ()
    names = ("cn:sensor-7", "dns:pi.example.com")
    changed = await store.device_change("pi", certificate_names=names)
    assert changed is not None
    assert changed.certificate_names == names
    assert await store.devices() == [changed]
    [token] = await store.tokens()
    assert token.certificate_names == names
    assert (await store.tokens_by_digest([token.digest]))[token.digest] == token
    changed = await store.device_change("pi", is_blocked=False)
    assert changed is not None
    assert changed.certificate_names == names
    changed = await store.device_change("pi", certificate_names=[])
    assert changed is not None
    assert changed.certificate_names == ()


async def test_a_device_can_not_take_the_name_of_another(store: Store) -> None:
    await store.device_add("pi", {}, 1.0)
    await store.device_add("po", {}, 1.0)
    with pytest.raises(NameTaken):
        await store.device_change("pi", new_name="po", is_blocked=True)
    assert [(each.name, each.is_blocked) for each in await store.devices()] == [
        ("pi", False), ("po", False),
    ]  # fmt: skip
    assert (await store.device_change("pi", new_name="pi")) is not None


async def test_with_a_device_goes_what_is_its_own(store: Store) -> None:
    own, other = await device_token(store, "pi"), await device_token(store, "po")
    device, second = own.device_id or 0, other.device_id or 0
    await store.tunnels_claim([("a", "http", device), ("b", "http", second)], 2.0)
    event = DeviceEvent(device_id=device, at=1.0, kind="online", address="")
    await store.device_events_add([event])
    assert await store.device_delete("pi")
    assert not await store.device_delete("pi")
    assert [each.name for each in await store.devices()] == ["po"]
    assert [each.name for each in await store.tokens()] == ["po"]
    assert [each.name for each in await store.tunnels()] == ["b"]
    assert await store.device_events(device, 10) == []


async def test_changes_of_devices_are_seen_by_others(backend: Backend) -> None:
    store, other = await backend.open(), await backend.open()
    await other.device_add("pi", {}, 1.0)
    assert await store.changed_elsewhere()
    await other.device_change("pi", is_blocked=True)
    assert await store.changed_elsewhere()
    await other.device_delete("pi")
    assert await store.changed_elsewhere()
    await store.close()
    await other.close()


async def test_what_was_seen_of_nobody_is_no_error(store: Store) -> None:
    await store.seen({77: 1.0}, {78: Sighting(at=2.0)})
    await store.seen({}, {})
    assert await store.tokens() == []
    assert await store.devices() == []


async def test_only_writes_of_others_count_as_changes(backend: Backend) -> None:
    store, other = await backend.open(), await backend.open()
    assert await store.changed_elsewhere()
    await device_token(store, "mine")
    assert not await store.changed_elsewhere()
    await device_token(other, "theirs")
    assert await store.changed_elsewhere()
    assert not await store.changed_elsewhere()
    await other.token_revoke("mine", 5.0)
    assert await store.changed_elsewhere()
    await store.close()
    await other.close()


async def test_a_new_store_may_be_opened_by_several_at_once(backend: Backend) -> None:
    stores = await asyncio.gather(*(backend.open() for _ in range(4)))
    await asyncio.gather(*(device_token(store, f"t{n}") for n, store in enumerate(stores)))
    assert len(await stores[0].tokens()) == 4
    for store in stores:
        await store.ping()
        await store.close()
        await store.close()
