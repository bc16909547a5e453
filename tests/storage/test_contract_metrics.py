"""The contract of storage.metrics."""

from __future__ import annotations

import msgspec

from proxy_engine.storage import Metric, Store


def metric(time: float, **values: float) -> Metric:
    return Metric(time=time, type="server", values=values)


async def test_metrics_are_read_by_type_and_time_and_trimmed(store: Store) -> None:
    kept = [metric(60.0 * minute, requests=2**40 + minute, load=0.5) for minute in range(1, 6)]
    for each in kept:
        await store.metric_add(each)
    await store.metric_add(Metric(time=120.0, type="other", values={"x": 1}))

    async def read(since: float = 0.0, until: float = 1e9, limit: int = 100) -> list[Metric]:
        return await store.metrics("server", since=since, until=until, limit=limit)

    assert await read() == kept
    assert await read(limit=2) == kept[-2:]
    assert await read(since=120.0, until=240.0) == kept[1:4]
    assert msgspec.json.encode(await read())
    await store.metrics_trim(180.0)
    assert await read() == kept[2:]
    assert await store.metrics("other", since=0.0, until=1e9, limit=9) == []
