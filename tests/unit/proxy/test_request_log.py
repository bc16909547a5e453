from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy_engine.errors import StorageError
from proxy_engine.requests import log as request_log
from proxy_engine.requests.journal import Journal
from proxy_engine.requests.log import RequestLog
from proxy_engine.storage import RequestPage, RequestQuery, Retention
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord


def record(time_us: int = 1, path: str = "/") -> LogRecord:
    return LogRecord(time_us, 0, 0, "r", "::1", "GET", "h", path, 200, "", 0, 0, 0, 0, 0, 0)


def packed(*times: int) -> bytes:
    return log_batch.pack(map(record, times))


RECORD_SIZE = len(packed(1))


class FakeStore:
    """Keeps what it is given; fails, or waits, when told to."""

    def __init__(self) -> None:
        self.batches: list[list[LogRecord]] = []
        self.trims: list[int] = []
        self.is_broken = False
        self.is_late = False  # stores once, and says that it failed
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def times(self) -> list[int]:
        return [row.time_us for batch in self.batches for row in batch]

    async def requests_add(self, batch: bytes) -> int:
        await self.gate.wait()
        if self.is_broken:
            raise StorageError("disk full")
        self.batches.append(log_batch.unpack(batch))
        if self.is_late:
            self.is_late = False
            raise StorageError("no answer in time")
        return len(self.batches[-1])

    async def requests_search(self, query: RequestQuery, *, limit: int) -> RequestPage:
        found: list[Any] = [
            row
            for batch in self.batches
            for row in batch
            if row.request_id == query.request_id
            and query.since_us <= row.time_us <= query.until_us
        ]
        return RequestPage(found[:limit], None)

    async def requests_trim(self, keep: Retention, now: float) -> None:
        self.trims.append(keep.count)


def make(store: Any, **options: Any) -> RequestLog:
    return RequestLog(store, keep=Retention(count=100), **options)


def journal_at(tmp_path: Path, size_max: int = 1 << 20) -> Journal:
    return Journal(tmp_path / "journal", size_max=size_max)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "journal").iterdir())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.fixture
def small_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is full with ten records."""
    monkeypatch.setattr(request_log, "FLUSH_BYTES", 10 * RECORD_SIZE)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "FLUSH_INTERVAL", 0.01)
    monkeypatch.setattr(request_log, "RETRY_INTERVAL", 0.02)


async def test_records_are_written_in_batches_in_order(small_flushes: None) -> None:
    store = FakeStore()
    log = make(store)
    for number in range(0, 24, 3):
        log.put(packed(*range(number, number + 3)))
    await log.start()
    await log.close()
    assert [len(batch) for batch in store.batches] == [12, 12]
    assert store.times == list(range(24))
    assert (log.written, log.dropped) == (24, 0)
    assert log.stats()["request_log_memory_bytes"] == 0


async def test_a_full_batch_does_not_wait_for_the_interval(
    monkeypatch: pytest.MonkeyPatch, small_flushes: None
) -> None:
    monkeypatch.setattr(request_log, "FLUSH_INTERVAL", 3600.0)
    store = FakeStore()
    log = make(store)
    await log.start()
    log.put(packed(*range(10)))
    await until(lambda: len(store.batches) == 1)
    await log.close()


async def test_full_memory_drops_the_newest_and_counts_them() -> None:
    store = FakeStore()
    log = make(store, memory_max=10 * RECORD_SIZE)
    log.put(packed(*range(8)))
    log.put(packed(*range(3)))
    log.put(packed(8, 9))
    log.put(packed(1))
    assert log.dropped == 4
    await log.start()
    await until(lambda: log.written == 10)
    log.put(packed(10))  # there is room again
    await log.close()
    assert store.times == list(range(11))
    assert (log.written, log.dropped) == (11, 4)


async def test_without_a_journal_records_wait_in_memory_while_the_store_fails() -> None:
    store = FakeStore()
    log = make(store)
    store.is_broken = True
    await log.start()
    log.put(packed(1, 2, 3))
    await until(lambda: log.is_failing)
    log.put(packed(4))
    store.is_broken = False
    await until(lambda: store.times == [1, 2, 3, 4])
    assert not log.is_failing
    await log.close()


async def test_closing_with_a_broken_store_and_no_journal_ends_and_counts() -> None:
    store = FakeStore()
    store.is_broken = True
    log = make(store)
    await log.start()
    log.put(packed(1, 2, 3))
    await asyncio.wait_for(log.close(), 5)
    assert (log.written, log.dropped) == (0, 3)


async def test_a_failing_store_fills_the_journal_and_gets_it_in_order(tmp_path: Path) -> None:
    store = FakeStore()
    store.is_broken = True
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    for number in range(30):
        log.put(packed(number))
        await asyncio.sleep(0.002)
    await until(lambda: log.journaled == 30)
    assert log.stats()["request_log_memory_bytes"] == 0
    store.is_broken = False
    for number in range(30, 60):
        log.put(packed(number))
        await asyncio.sleep(0.002)
    await until(lambda: log.written == 60)
    assert store.times == list(range(60))
    assert log.replayed == log.journaled >= 30
    await until(lambda: log.stats()["request_log_journal_bytes"] == 0)
    assert files(tmp_path) == []
    log.put(packed(60))  # past the journal again
    await until(lambda: log.written == 61)
    assert log.journaled == log.replayed < 61
    await log.close()


async def test_a_store_that_hangs_keeps_nothing_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "SLOW_SECONDS", 0.03)
    store = FakeStore()
    store.gate.clear()
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    log.put(packed(1))
    # Nothing else comes, and still what is being written goes to the disk.
    await until(lambda: log.journaled == 1)
    log.put(packed(2, 3))
    await until(lambda: log.journaled == 3)
    store.gate.set()
    await until(lambda: log.written == 3)
    assert store.times == [1, 2, 3]  # and what was under way is there once
    await log.close()
    assert files(tmp_path) == []


async def test_a_store_that_is_slow_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "SPILL_BYTES", 5 * RECORD_SIZE)
    store = FakeStore()
    store.gate.clear()
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    for number in range(12):
        log.put(packed(number))
        await asyncio.sleep(0.015)
    await until(lambda: log.journaled == 12)
    store.gate.set()
    await until(lambda: log.written == 12)
    assert store.times == list(range(12))
    await log.close()


async def test_what_a_run_could_not_store_the_next_one_does(tmp_path: Path) -> None:
    store = FakeStore()
    store.is_broken = True
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    log.put(packed(1, 2))
    await until(lambda: log.journaled == 2)
    log.put(packed(3))
    await log.close()
    assert log.dropped == 0

    store.is_broken = False
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    log.put(packed(4))
    await until(lambda: log.written == 4)
    assert store.times == [1, 2, 3, 4]
    await log.close()
    assert files(tmp_path) == []


async def test_beyond_journal_and_memory_the_newest_are_dropped_and_counted(tmp_path: Path) -> None:
    store = FakeStore()
    store.is_broken = True
    log = make(
        store,
        journal=journal_at(tmp_path, 10 * (RECORD_SIZE + 12)),
        memory_max=5 * RECORD_SIZE,
    )
    await log.start()
    for number in range(9):  # what the journal has room for
        log.put(packed(number))
        await until(lambda number=number: log.journaled == number + 1)  # type: ignore[misc]
    for number in range(9, 40):
        log.put(packed(number))
        await asyncio.sleep(0.015)
    assert log.dropped > 0
    kept = 40 - log.dropped
    store.is_broken = False
    await until(lambda: log.written == kept)
    assert store.times[:9] == list(range(9))
    assert store.times == sorted(store.times)
    await log.close()


async def test_what_a_failed_call_had_stored_is_not_stored_twice(tmp_path: Path) -> None:
    store = FakeStore()
    store.is_late = True
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    log.put(packed(1, 2))
    await until(lambda: log.written == 2)
    log.put(packed(3))
    await log.close()
    assert store.times == [1, 2, 3]


async def test_what_was_stored_but_not_marked_when_a_run_ended_is_there_once(
    tmp_path: Path,
) -> None:
    journal = journal_at(tmp_path)
    journal.open()
    journal.append(packed(1, 2))
    journal.append(packed(3))
    journal.close()
    store = FakeStore()
    await store.requests_add(packed(1, 2))
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    await until(lambda: log.replayed == 3)
    await log.close()
    assert store.times == [1, 2, 3]


async def test_a_sample_of_what_went_well_is_kept_and_all_that_did_not() -> None:
    store = FakeStore()
    log = make(store, sample=0.25)
    await log.start()
    good = [record(number)._replace(request_id=f"{number:x}") for number in range(4000)]
    bad = [record(number)._replace(status=502, reason="refused") for number in range(4000, 4100)]
    log.put(log_batch.pack(good + bad))
    await log.close()
    assert log.written + log.sampled_out == 4100
    assert 800 < log.written - 100 < 1200
    assert store.times[-100:] == list(range(4000, 4100))


async def test_old_rows_are_trimmed_now_and_then_not_at_every_batch(
    monkeypatch: pytest.MonkeyPatch, small_flushes: None
) -> None:
    store = FakeStore()
    monkeypatch.setattr(request_log, "TRIM_EVERY_ROWS", 30)
    log = make(store)
    for number in range(7):
        log.put(packed(*range(number, number + 10)))
    await log.start()
    await log.close()
    assert len(store.batches) == 7
    assert store.trims == [100, 100, 100]


async def test_what_is_too_old_goes_though_nothing_new_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_log, "TRIM_EVERY_SECONDS", 0.01)
    store = FakeStore()
    log = make(store)
    await log.start()
    await asyncio.sleep(0.1)
    assert store.trims == []  # nothing here is ever too old
    log.keep = Retention(count=100, age=60.0)
    while not store.trims:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await log.close()


async def test_secrets_in_path_and_query_are_not_stored(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    log = RequestLog(store, keep=Retention())
    paths = ["/a?token=hunter2&x=1", "/token=hunter3", "/x/pe_" + "A" * 43 + "/y"]
    log.put(log_batch.pack(record(path=path) for path in paths))
    await log.start()
    await log.close()
    stored = [request.path for request in await store.requests_last(10)]
    assert stored == ["/a?token=[redacted]&x=1", "/token=hunter3", "/x/pe_[redacted]/y"]
    assert log.stats()["request_log_redacted"] == 2
    await store.close()


async def test_secrets_are_not_in_the_journal_either(tmp_path: Path) -> None:
    store = FakeStore()
    store.is_broken = True
    log = make(store, journal=journal_at(tmp_path))
    await log.start()
    log.put(log_batch.pack([record(path="/a?token=hunter2")]))
    await log.close()
    [name] = files(tmp_path)
    content = (tmp_path / "journal" / name).read_bytes()
    assert b"/a?token=[redacted]" in content
    assert b"hunter2" not in content
