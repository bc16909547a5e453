from __future__ import annotations

import pytest

from proxy_engine import metric_history
from proxy_engine.errors import StorageError
from proxy_engine.metric_history import KEPT, MetricHistory
from proxy_engine.storage import Metric
from proxy_engine.storage.sqlite import SqliteStore


async def kept(store: SqliteStore) -> list[Metric]:
    return await store.metrics("server", since=0.0, until=1e10, limit=100)


async def test_what_happened_is_kept_for_a_week(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_history, "TRIM_EVERY", 1)
    now = 1000.0
    counters = {"requests": 5, "errors": 0}
    history = MetricHistory(store, lambda: counters, clock=lambda: now)
    await history.keep()
    assert await kept(store) == [Metric(time=1000.0, type="server", values={"requests": 5})]
    now += KEPT + 1
    counters["errors"] = 1
    await history.keep()
    assert [each.values for each in await kept(store)] == [{"requests": 5, "errors": 1}]


async def test_a_store_that_fails_leaves_a_gap(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    history = MetricHistory(store, lambda: {"requests": 1}, clock=lambda: now)
    await history.keep()

    async def fail(metric: Metric) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "metric_add", fail)
        now += 60
        await history.keep()
    now += 60
    await history.keep()
    assert [each.time for each in await kept(store)] == [1000.0, 1120.0]
