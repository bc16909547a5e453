from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxy_engine import request_log
from proxy_engine.errors import StorageError
from proxy_engine.request_log import FLUSH_ROWS, RequestLog, redact
from proxy_engine.storage import RequestRow
from proxy_engine.storage.sqlite import SqliteStore


class Record(NamedTuple):
    """The engine's LogRecord, field by field."""

    time_us: int = 1
    route: int = 0
    device: int = 0
    request_id: str = "r"
    visitor: str = "127.0.0.1"
    method: str = "GET"
    host: str = "h"
    path: str = "/"
    status: int = 200
    reason: str = ""
    flags: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    total_us: int = 0
    first_byte_us: int = 0
    target_us: int = 0


class FakeStore:
    def __init__(self) -> None:
        self.batches: list[list[RequestRow]] = []
        self.trims: list[int] = []
        self.is_broken = False

    async def requests_add(self, rows: Sequence[RequestRow]) -> None:
        if self.is_broken:
            raise StorageError("disk full")
        self.batches.append(list(rows))

    async def requests_trim(self, keep: int) -> None:
        self.trims.append(keep)


def make(store: Any, **options: Any) -> RequestLog:
    return RequestLog(store, keep=100, **options)


def records(count: int) -> Any:
    return [Record(time_us=number) for number in range(count)]


async def test_records_are_written_in_batches_in_order() -> None:
    store = FakeStore()
    log = make(store)
    log.put(records(FLUSH_ROWS + 5))
    log.start()
    await log.close()
    assert [len(batch) for batch in store.batches] == [FLUSH_ROWS, 5]
    assert [row[0] for batch in store.batches for row in batch] == list(range(FLUSH_ROWS + 5))
    assert (log.written, log.dropped) == (FLUSH_ROWS + 5, 0)


async def test_a_full_batch_does_not_wait_for_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_log, "FLUSH_INTERVAL", 3600.0)
    store = FakeStore()
    log = make(store)
    log.start()
    log.put(records(FLUSH_ROWS))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(store.batches) == 1
    await log.close()


async def test_a_full_queue_drops_the_newest_and_counts_them() -> None:
    store = FakeStore()
    log = make(store, queue_rows_max=10)
    log.put(records(8))
    log.put(records(5))
    log.put(records(1))
    assert log.dropped == 4
    log.start()
    await log.close()
    assert log.written == 10


async def test_records_wait_while_the_store_fails() -> None:
    store = FakeStore()
    log = make(store)
    store.is_broken = True
    log.put(records(3))
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
    log.put(records(3))
    await asyncio.wait_for(log.close(), 5)
    assert log.written == 0


async def test_old_rows_are_trimmed_now_and_then_not_at_every_batch() -> None:
    store = FakeStore()
    log = make(store)
    log.put(records(FLUSH_ROWS * 7))
    log.start()
    await log.close()
    assert store.trims == [100, 100]


async def test_secrets_in_path_and_query_are_not_stored(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    log = RequestLog(store, keep=0)
    paths = ["/a?token=hunter2&x=1", "/token=hunter3", "/x/pe_" + "A" * 43 + "/y"]
    records: Any = [Record(path=path) for path in paths]
    log.put(records)
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
        ("/?authorization=Bearer%20x", "/?authorization=[redacted]"),
        ("/?monkey=1&tokens=2", "/?monkey=1&tokens=2"),
        ("/?token=", "/?token="),
        ("/?token", "/?token"),
        ("/?a?token=1", "/?a?token=1"),
    ],
)
def test_redaction(path: str, expected: str) -> None:
    assert redact(path) == expected
