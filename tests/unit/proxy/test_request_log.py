from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy_engine import request_log
from proxy_engine.errors import StorageError
from proxy_engine.request_log import RequestLog, redact
from proxy_engine.storage import Retention
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord


def record(time_us: int = 1, path: str = "/") -> LogRecord:
    return LogRecord(time_us, 0, 0, "r", "::1", "GET", "h", path, 200, "", 0, 0, 0, 0, 0, 0)


def packed(*times: int) -> bytes:
    return log_batch.pack(map(record, times))


RECORD_SIZE = len(packed(1))


class FakeStore:
    def __init__(self) -> None:
        self.batches: list[list[LogRecord]] = []
        self.trims: list[int] = []
        self.is_broken = False

    async def requests_add(self, batch: bytes) -> int:
        if self.is_broken:
            raise StorageError("disk full")
        self.batches.append(log_batch.unpack(batch))
        return len(self.batches[-1])

    async def requests_trim(self, keep: Retention, now: float) -> None:
        self.trims.append(keep.count)


def make(store: Any, **options: Any) -> RequestLog:
    return RequestLog(store, keep=Retention(count=100), **options)


@pytest.fixture
def small_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is full with ten records."""
    monkeypatch.setattr(request_log, "FLUSH_BYTES", 10 * RECORD_SIZE)


async def test_records_are_written_in_batches_in_order(small_flushes: None) -> None:
    store = FakeStore()
    log = make(store)
    for number in range(0, 24, 3):
        log.put(packed(*range(number, number + 3)))
    log.start()
    await log.close()
    assert [len(batch) for batch in store.batches] == [12, 12]
    assert [row.time_us for batch in store.batches for row in batch] == list(range(24))
    assert (log.written, log.dropped) == (24, 0)


async def test_a_full_batch_does_not_wait_for_the_interval(
    monkeypatch: pytest.MonkeyPatch, small_flushes: None
) -> None:
    monkeypatch.setattr(request_log, "FLUSH_INTERVAL", 3600.0)
    store = FakeStore()
    log = make(store)
    log.start()
    log.put(packed(*range(10)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(store.batches) == 1
    await log.close()


async def test_a_full_queue_drops_the_newest_and_counts_them() -> None:
    store = FakeStore()
    log = make(store, queue_bytes_max=10 * RECORD_SIZE)
    log.put(packed(*range(8)))
    log.put(packed(*range(3)))
    log.put(packed(8, 9))
    log.put(packed(1))
    assert log.dropped == 4
    log.start()
    await log.close()
    assert [row.time_us for row in store.batches[0]] == list(range(10))
    log.put(packed(10))  # there is room again
    assert (log.written, log.dropped) == (10, 4)


async def test_records_wait_while_the_store_fails() -> None:
    store = FakeStore()
    log = make(store)
    store.is_broken = True
    log.put(packed(1, 2, 3))
    assert not await log.flush()
    assert log.is_failing
    store.is_broken = False
    assert await log.flush()
    assert not log.is_failing
    assert [len(batch) for batch in store.batches] == [3]


async def test_closing_with_a_broken_store_ends() -> None:
    store = FakeStore()
    store.is_broken = True
    log = make(store)
    log.start()
    log.put(packed(1, 2, 3))
    await asyncio.wait_for(log.close(), 5)
    assert log.written == 0


async def test_old_rows_are_trimmed_now_and_then_not_at_every_batch(
    monkeypatch: pytest.MonkeyPatch, small_flushes: None
) -> None:
    store = FakeStore()
    monkeypatch.setattr(request_log, "TRIM_EVERY_ROWS", 30)
    log = make(store)
    for number in range(7):
        log.put(packed(*range(number, number + 10)))
    log.start()
    await log.close()
    assert len(store.batches) == 7
    assert store.trims == [100, 100, 100]


async def test_secrets_in_path_and_query_are_not_stored(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    log = RequestLog(store, keep=Retention())
    paths = ["/a?token=hunter2&x=1", "/token=hunter3", "/x/pe_" + "A" * 43 + "/y"]
    log.put(log_batch.pack(record(path=path) for path in paths))
    log.start()
    await log.close()
    stored = [request.path for request in await store.requests_last(10)]
    assert stored == ["/a?token=[redacted]&x=1", "/token=hunter3", "/x/pe_[redacted]/y"]
    await store.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/?", "/?"),
        ("/?a=b", "/?a=b"),
        ("/?key=1", "/?key=[redacted]"),
        ("/?KEY=1&secret=2", "/?KEY=[redacted]&secret=[redacted]"),
        ("/?a=1&password=x=y&b=2", "/?a=1&password=[redacted]&b=2"),
        ("/?access_token=a;signature=b", "/?access_token=[redacted];signature=[redacted]"),
        ("/?%74oken=1", "/?%74oken=[redacted]"),
        ("/?+token=1", "/?+token=[redacted]"),
        ("/?a=1&\xa0Token=1", "/?a=1&\xa0Token=[redacted]"),
        ("/?a=1&b=%20&key=1", "/?a=1&b=%20&key=[redacted]"),
        ("/?authorization=Bearer%20x", "/?authorization=[redacted]"),
        ("/?monkey=1&tokens=2", "/?monkey=1&tokens=2"),
        ("/?token=", "/?token="),
        ("/?token", "/?token"),
        ("/?a?token=1", "/?a?token=1"),
    ],
)
def test_redaction(path: str, expected: str) -> None:
    assert redact(path) == expected
