"""The contract of storage.requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from proxy_engine.storage import Request, RequestQuery, Retention, Store
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
        first_byte_us=900,
        link_us=500,
        target_us=300,
        trace_id="0a" * 16,
        parent_id="0b" * 8,
        span_id="0c" * 8,
        trace_flags=1,
    )
    await store.requests_add(packed(whole, record(2, device=0)))
    await store.close()

    store = await backend.open()
    first, second = await store.requests_last(10)
    for field in set(whole._fields) - {"route", "device"}:
        assert getattr(first, field) == getattr(whole, field), field
    assert (first.tunnel, first.device, first.proxy_us) == ("web", "pi", 100)
    assert (second.trace_id, second.parent_id, second.span_id, second.trace_flags) == (
        "",
        "",
        "",
        0,
    )
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


async def found(store: Store, limit: int = 1000, **query: Any) -> list[int]:
    page = await store.requests_search(RequestQuery(**query), limit=limit)
    return [request.time_us for request in page.requests]


async def test_requests_are_searched_by_what_they_are(store: Store) -> None:
    ids = []
    for name in ("one", "two"):
        token = await store.token_add(
            name=name, kind="device", digest=name.encode(), device=name, now=1.0, expires_at=None
        )
        ids.append(token.device_id or 0)
    [web] = await store.tunnels_claim([("web", "http", ids[0])], 2.0)
    records = [
        record(1, web.id, ids[0], path="/Shop/Items?x=1"),
        record(2, 0, ids[1], status=502, flags=16, reason="refused", total_us=5_000_000),
        record(3, web.id, ids[0], method="POST", host="other", visitor="192.0.2.1"),
        record(4, 0, ids[1], status=504, flags=16, reason="response_timeout", path="/slow.php"),
        record(5, 0, 0, status=200, flags=4, reason="target_lost"),
    ]
    await store.requests_add(packed(*records[:2]))
    await store.requests_add(packed(*records[2:]))
    assert await found(store) == [5, 4, 3, 2, 1]
    for query, times in (
        ({"device": "one"}, [3, 1]),
        ({"device": "two", "state": "timeout"}, [4]),
        ({"device": "nobody"}, []),
        ({"tunnel": "web"}, [3, 1]),
        ({"tunnel": "nobody"}, []),
        ({"status": (500, 599)}, [4, 2]),
        ({"status": (502, 502)}, [2]),
        ({"state": "unavailable"}, [2]),
        ({"state": "aborted"}, [5]),
        ({"state": "closed"}, [3, 1]),
        ({"method": "POST"}, [3]),
        ({"host": "other"}, [3]),
        ({"visitor": "192.0.2.1"}, [3]),
        ({"reason": "refused"}, [2]),
        ({"request_id": "r4"}, [4]),
        ({"path": "shop/"}, [1]),
        ({"path": "w.p"}, [4]),
        ({"path": ".*"}, []),
        ({"since_us": 2, "until_us": 4}, [4, 3, 2]),
        ({"since_us": 6}, []),
        ({"total_us": (1_000_000, 6_000_000)}, [2]),
    ):
        assert await found(store, **query) == times, query
    [request] = (await store.requests_search(RequestQuery(state="timeout"), limit=5)).requests
    assert (request.id, request.state, request.device) == (4, "timeout", "two")


async def test_pages_of_a_search_join_without_gaps(store: Store) -> None:
    for start in range(1, 101, 7):
        await add(store, range(start, min(start + 7, 101)))
    for limit in (1, 9, 99, 100, 101):
        pages, before = [], None
        while True:
            page = await store.requests_search(RequestQuery(), limit=limit, before=before)
            pages.append([request.id for request in page.requests])
            before = page.next
            if before is None:
                break
        assert [each for page in pages for each in page] == list(range(100, 0, -1))
        assert {len(page) for page in pages[:-1]} <= {limit}
        assert pages[-1]


async def test_pages_of_one_device_and_one_status_join_without_gaps(store: Store) -> None:
    token = await store.token_add(
        name="pi", kind="device", digest=b"d" * 32, device="pi", now=1.0, expires_at=None
    )
    device = token.device_id or 0
    for start in range(0, 60, 10):  # many of one millisecond
        made = [
            record(start * 1000 + number, 0, device if number % 2 else 0, status=500 + number % 3)
            for number in range(10)
        ]
        await store.requests_add(packed(*made))
    for query, count in (({"device": "pi"}, 30), ({"status": (500, 501)}, 42)):
        seen, before = [], None
        while True:
            page = await store.requests_search(RequestQuery(**query), limit=4, before=before)
            seen += [request.id for request in page.requests]
            before = page.next
            if before is None:
                break
        assert len(seen) == count and seen == sorted(set(seen), reverse=True)


async def test_a_summary_of_nothing_and_of_every_percentile(store: Store) -> None:
    empty = await store.requests_summary(RequestQuery())
    assert (empty.count, empty.max_us, empty.paths, empty.statuses) == (0, 0, [], {})
    assert set(empty.percentiles_us.values()) == {0}
    await store.requests_add(
        packed(*(record(n, total_us=n * 1000, status=502, flags=16) for n in range(1, 201)))
    )
    summary = await store.requests_summary(RequestQuery(), paths=0)
    assert (summary.count, summary.paths, summary.max_us) == (200, [], 200_000)
    assert summary.states == {**empty.states, "unavailable": 200}
    for percent, us in summary.percentiles_us.items():
        assert us == pytest.approx(int(percent) * 2000, rel=0.04), percent


async def test_a_summary_is_of_what_is_searched(store: Store) -> None:
    await store.requests_add(
        packed(
            record(1, path="/a?x", total_us=100),
            record(2, path="/a", total_us=300, status=404),
            record(3, path="/b", total_us=100_000),
            record(4, path="/c", method="POST"),
        )
    )
    summary = await store.requests_summary(RequestQuery(method="GET"), paths=1)
    assert (summary.count, summary.bytes_in, summary.bytes_out) == (3, 3, 6)
    assert (summary.statuses, summary.states["closed"]) == ({200: 2, 404: 1}, 3)
    assert (summary.paths, summary.max_us, summary.is_partial) == ([("/a", 2)], 100_000, False)
    assert 280 < summary.percentiles_us["50"] < 320
    assert (await store.requests_summary(RequestQuery(device="nobody"))).count == 0


async def test_requests_are_found_by_their_trace(store: Store) -> None:
    ids = ["0a" * 16, "", "0b" * 16, "0a" * 16]
    await store.requests_add(packed(*(record(n, trace_id=x) for n, x in enumerate(ids, 1))))
    page = await store.requests_search(RequestQuery(trace_id="0a" * 16), limit=10)
    assert [found.time_us for found in page.requests] == [4, 1]
    page = await store.requests_search(RequestQuery(trace_id="0c" * 16), limit=10)
    assert page.requests == []
