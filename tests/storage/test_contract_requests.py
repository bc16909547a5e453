"""The contract of storage.requests."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from proxy_engine.storage import Request, Retention, Store
from tests.storage.conftest import Backend
from tests.storage.records import add, packed, record


async def ids(store: Store) -> list[int]:
    return [request.id for request in await store.requests_last(1000)]


async def test_a_request_is_kept_whole_with_names_for_its_numbers(backend: Backend) -> None:
    store = await backend.open()
    token = await store.token_add(
        name="pi", kind="device", digest=b"d" * 32, device="pi", now=1.0, expires_at=None
    )
    device = token.device_id or 0
    [tunnel] = await store.tunnels_claim([("web", "http", device)], 2.0)
    whole = record(
        1_789_000_000_123_456,
        tunnel.id,
        device,
        path="/caf\xe9?a=1",
        reason="target_timeout",
        status=504,
        bytes_out=2**40,
        flags=2**31,
    )
    await store.requests_add(packed(whole, record(2, device=0)))
    await store.close()

    store = await backend.open()
    first, second = await store.requests_last(10)
    for field in set(whole._fields) - {"route", "device"}:
        assert getattr(first, field) == getattr(whole, field), field
    assert (first.tunnel, first.device) == ("web", "pi")
    assert msgspec.json.decode(msgspec.json.encode(first), type=Request) == first
    assert (second.request_id, second.tunnel, second.device) == ("r2", None, None)
    await store.close()


async def test_requests_are_read_from_the_end_and_after_an_id(store: Store) -> None:
    assert await store.requests_last(5) == await store.requests_after(0, 5) == []
    await add(store, range(1, 6))
    await add(store, range(6, 8))
    await add(store, range(8, 11))
    await add(store, range(0))
    assert [item.time_us for item in await store.requests_last(2)] == [9, 10]
    assert [item.time_us for item in await store.requests_last(6)] == [5, 6, 7, 8, 9, 10]
    assert [item.id for item in await store.requests_after(8, 10)] == [9, 10]
    assert [item.id for item in await store.requests_after(3, 5)] == [4, 5, 6, 7, 8]
    assert await store.requests_after(10, 5) == []


async def test_trimming_by_count_leaves_the_newest(store: Store) -> None:
    for start in (1, 6, 8):
        await add(store, range(start, {1: 6, 6: 8, 8: 11}[start]))
    await store.requests_trim(Retention(), 0.0)
    assert await ids(store) == list(range(1, 11))
    await store.requests_trim(Retention(count=3), 0.0)
    assert await ids(store) == [8, 9, 10]
    await add(store, range(11, 12))
    assert [item.id for item in await store.requests_after(10, 10)] == [11]  # ids go on


async def test_trimming_by_age_leaves_what_is_young(store: Store) -> None:
    now = time.time()
    for age in (7200, 3600, 10):
        made = [record(int((now - age) * 1e6) + number) for number in range(3)]
        await store.requests_add(packed(*made))
    await store.requests_trim(Retention(age=1800.0), now)
    # MongoDB looks for what is too old once a minute.
    for _ in range(200):
        if len(await ids(store)) == 3:
            break
        await asyncio.sleep(0.5)
    assert await ids(store) == [7, 8, 9]
    await store.requests_trim(Retention(), now + 1e6)  # no limit of age any more
    assert await ids(store) == [7, 8, 9]


async def test_trimming_by_size_leaves_at_most_that_much(store: Store) -> None:
    size = len(packed(record(1)))
    for start in range(10):
        await add(store, range(start * 10, (start + 1) * 10))
    await store.requests_trim(Retention(size=size * 40), 0.0)
    left = await ids(store)
    assert 0 < len(left) <= 45
    assert left[-1] == 100


async def test_a_damaged_batch_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="ends inside a record"):
        await store.requests_add(packed(record(1))[:-1])
    assert await store.requests_last(10) == []
