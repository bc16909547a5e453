"""What the servers of one store agree on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from proxy_engine import tokens
from proxy_engine.storage import Sighting, Store
from tests.storage.conftest import Backend

Write = Callable[[Store], Awaitable[object]]

# What a token opens, or whether a device may come.
CHANGES: dict[str, Write] = {
    "a token": lambda store: tokens.create(store, name="new", now=2.0),
    "a new secret": lambda store: tokens.rotate(store, "pi", now=2.0),
    "a revoked token": lambda store: store.token_revoke("pi", 2.0),
    "a blocked device": lambda store: store.device_change("pi", is_blocked=True),
    "a renamed device": lambda store: store.device_change("pi", new_name="other"),
    "a bound certificate": lambda store: store.device_change("pi", certificate_names=["cn:a"]),
    "a kicked device": lambda store: store.device_change("pi", kicked_at=2.0),
    "a deleted device": lambda store: store.device_delete("pi"),
}
OTHERS: dict[str, Write] = {
    "a device that registers": lambda store: store.devices_claim([("s-1", 1)], 2.0),
    "a tunnel": lambda store: store.tunnels_claim([("web", "http", 1)], 2.0),
    "a sighting": lambda store: store.seen({1: 2.0}, {1: Sighting(at=2.0, requests=1)}),
}


@pytest.mark.parametrize("write", CHANGES.values(), ids=CHANGES)
async def test_the_generation_moves_with_each_change_of_access(
    backend: Backend, write: Write
) -> None:
    store, other = await backend.open(), await backend.open()
    await tokens.create(store, name="pi", now=1.0)
    before = await store.access_generation()
    assert len(before) == 16
    assert await other.access_generation() == before == await store.access_generation()
    await write(other)
    after = await store.access_generation()
    assert after != before
    assert await other.access_generation() == after
    await store.close()
    await other.close()


@pytest.mark.parametrize("write", OTHERS.values(), ids=OTHERS)
async def test_the_generation_stays_when_nothing_cached_is_wrong(
    store: Store, write: Write
) -> None:
    await tokens.create(store, name="pi", now=1.0)
    before = await store.access_generation()
    await write(store)
    assert await store.access_generation() == before


async def test_all_servers_of_a_store_have_one_key(backend: Backend) -> None:
    store, other = await backend.open(), await backend.open()
    key = await store.shared_key()
    assert len(key) == 32 and len(set(key)) > 8
    assert await other.shared_key() == key == await store.shared_key()
    await store.close()
    await other.close()
