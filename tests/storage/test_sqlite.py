"""What is SQLite's own: files, migrations, damage. The contract is in the other files here."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from proxy_engine.errors import StorageError
from proxy_engine.storage import RequestQuery, Retention
from proxy_engine.storage.sqlite import SqliteStore, create_data_dir, database_path
from proxy_engine.storage.sqlite.database import PAGE_SIZE
from proxy_engine.storage.sqlite.migrations import MIGRATIONS
from tests.storage.records import packed, record


async def test_the_database_is_for_its_owner_only(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "b"
    create_data_dir(data_dir)
    store = await SqliteStore.open(database_path(data_dir))
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for file in data_dir.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    await store.close()


async def test_a_damaged_batch_is_reported(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(record(3), record(4)))
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE request_batches SET records = substr(records, 1, 100)")
    with pytest.raises(StorageError, match="ends inside a record"):
        await store.requests_last(10)
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE request_batches SET records = ?", (packed(record(3)),))
    with pytest.raises(StorageError, match="1 records instead of 2"):
        await store.requests_after(0, 10)
    await store.close()


async def test_two_programs_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(SqliteStore.open(tmp_path / "db") for _ in range(4)))
    await asyncio.gather(*(store.requests_add(packed(record(1))) for store in stores))
    assert len(await stores[0].requests_last(10)) == 4
    for store in stores:
        await store.close()


async def test_an_old_database_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(record(1)))
    await store.close()
    step = "ALTER TABLE devices ADD COLUMN note TEXT"
    monkeypatch.setattr(
        "proxy_engine.storage.sqlite.database.MIGRATIONS", (*MIGRATIONS, (step,), ("SELECT 1",))
    )
    store = await SqliteStore.open(tmp_path / "db")
    assert len(await store.requests_last(10)) == 1
    await store.close()
    with sqlite3.connect(tmp_path / "db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 2,)
        db.execute("SELECT note FROM devices")


async def test_requests_of_a_database_from_before_there_were_traces(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(record(1)))  # without a trace it is byte for byte as it was
    await store.close()
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE request_keys SET format = 1")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(record(2, trace_id="0a" * 16, span_id="0b" * 8)))
    old, new = (await store.requests_search(RequestQuery(), limit=10)).requests[::-1]
    assert (old.time_us, old.link_us, old.trace_id, old.target_us) == (1, 0, "", 5)
    assert (new.time_us, new.trace_id, new.span_id) == (2, "0a" * 16, "0b" * 8)
    await store.close()
    with sqlite3.connect(tmp_path / "db") as db:  # older versions do not read the new ones
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


async def test_a_failing_migration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await SqliteStore.open(tmp_path / "db")).close()
    steps = ("ALTER TABLE devices ADD COLUMN note TEXT", "THIS IS NOT SQL")
    monkeypatch.setattr("proxy_engine.storage.sqlite.database.MIGRATIONS", (*MIGRATIONS, steps))
    with pytest.raises(StorageError):
        await SqliteStore.open(tmp_path / "db")
    with sqlite3.connect(tmp_path / "db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        with pytest.raises(sqlite3.OperationalError):
            db.execute("SELECT note FROM devices")


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(StorageError, match="newer proxy-engine"):
        await SqliteStore.open(tmp_path / "db")


@pytest.mark.parametrize("garbage", [b"this is not a database at all\n" * 100, b"x" * 4096])
async def test_a_corrupt_database_is_one_clear_line(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "db").write_bytes(garbage)
    with pytest.raises(StorageError, match=r"not a database; put a backup in its place") as caught:
        await SqliteStore.open(tmp_path / "db")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "db").read_bytes() == garbage


async def test_a_database_with_a_torn_page_is_reported_not_raised_raw(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(*map(record, range(2000))))
    await store.close()
    data = bytearray((tmp_path / "db").read_bytes())
    data[PAGE_SIZE:] = b"\xff" * (len(data) - PAGE_SIZE)
    (tmp_path / "db").write_bytes(data)
    with pytest.raises(StorageError, match="malformed; put a backup in its place"):
        opened = await SqliteStore.open(tmp_path / "db")
        try:
            await opened.tokens()
            await opened.requests_last(10)
        finally:
            await opened.close()


async def test_damaged_tokens_are_found_at_the_start(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    for number in range(500):
        await store.token_add(
            name=f"t{number}",
            kind="device",
            digest=b"%032d" % number,
            device=f"d{number}",
            now=1.0,
            expires_at=None,
        )
    await store.close()
    with sqlite3.connect(tmp_path / "db") as db:
        [root] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'tokens'").fetchone()
    data = bytearray((tmp_path / "db").read_bytes())
    data[(root - 1) * PAGE_SIZE : root * PAGE_SIZE] = os.urandom(PAGE_SIZE)
    (tmp_path / "db").write_bytes(data)
    with pytest.raises(StorageError, match=r"database .*db") as caught:
        await SqliteStore.open(tmp_path / "db")
    assert "\n" not in str(caught.value)


async def test_a_deleted_database_is_noticed(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.ping()
    (tmp_path / "db").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="moved or deleted"):
        await store.ping()
    (tmp_path / "elsewhere").rename(tmp_path / "db")
    await store.ping()
    await store.close()


async def test_the_file_shrinks_when_much_of_it_is_free(tmp_path: Path) -> None:
    def size() -> int:
        with sqlite3.connect(tmp_path / "db") as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return (tmp_path / "db").stat().st_size

    store = await SqliteStore.open(tmp_path / "db")
    batch = packed(*(record(number, path="/" + "x" * 900) for number in range(1000)))
    for _ in range(40):
        await store.requests_add(batch)
    full = size()
    assert full > 40 * len(batch)
    await store.requests_trim(Retention(count=35_000), 0.0)
    assert size() > 0.9 * full  # a little is used again
    await store.requests_trim(Retention(count=2000), 0.0)
    assert size() < 0.4 * full
    assert len(await store.requests_last(10_000)) == 2000
    await store.close()


async def test_a_write_that_waited_too_long_is_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("proxy_engine.storage.sqlite.database.CALL_TIMEOUT", 0.2)
    started = time.monotonic()
    answers = await asyncio.gather(
        *(store.requests_add(packed(record(number))) for number in range(3)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [StorageError] * 3
    assert time.monotonic() - started < 8  # one waits as long as it may otherwise: 10 s
    monkeypatch.undo()
    assert await store.tokens() == []  # reads do not wait
    other.execute("ROLLBACK")
    await store.requests_add(packed(record(9)))
    # Neither the one under way nor those behind it.
    assert [item.time_us for item in await store.requests_last(10)] == [9]
    other.close()
    await store.close()


async def test_a_database_that_is_not_there_is_not_made_by_readers(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no database"):
        await SqliteStore.open(tmp_path / "db", create=False)
    assert not os.listdir(tmp_path)


def test_a_data_dir_that_can_not_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        create_data_dir(tmp_path / "file" / "dir")
    with pytest.raises(StorageError, match="data dir"):
        create_data_dir(tmp_path / "file")


async def test_small_batches_are_merged_and_nothing_shows(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    for number in range(1, 201):
        await store.requests_add(packed(record(number, status=500 + number % 2)))
    with sqlite3.connect(tmp_path / "db") as db:
        [(batches,)] = db.execute("SELECT count(*) FROM request_batches")
        [(keys,)] = db.execute("SELECT count(*) FROM request_keys")
    assert batches == keys == 3 + 200 % 64
    assert [request.id for request in await store.requests_last(1000)] == list(range(1, 201))
    page = await store.requests_search(RequestQuery(status=(501, 501)), limit=1000)
    assert [request.time_us for request in page.requests] == list(range(199, 0, -2))
    await store.requests_trim(Retention(count=50), 0.0)
    with sqlite3.connect(tmp_path / "db") as db:
        assert (
            db.execute("SELECT min(id) FROM request_keys").fetchone()
            == db.execute("SELECT min(id) FROM request_batches").fetchone()
        )
    await store.close()


async def test_a_batch_of_another_layout_is_not_misread(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(record(1)))
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE request_keys SET format = 99")
    with pytest.raises(StorageError, match="another version"):
        await store.requests_search(RequestQuery(), limit=1)
    await store.close()
