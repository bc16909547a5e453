from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from proxy_engine.errors import StorageError
from proxy_engine.storage.migrations import MIGRATIONS
from proxy_engine.storage.sqlite import PAGE_SIZE, SqliteStore, create_data_dir, database_path
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord


def row(number: int, tunnel: int = 0) -> LogRecord:
    return LogRecord(
        number, tunnel, 1, f"r{number}", "::1", "GET", "h", "/", 200, "", 0, 1, 2, 3, 4, 5
    )


def packed(*records: LogRecord) -> bytes:
    return log_batch.pack(records)


async def test_the_database_is_for_its_owner_only(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "b"
    create_data_dir(data_dir)
    store = await SqliteStore.open(database_path(data_dir))
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for file in data_dir.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    await store.close()


async def test_a_store_keeps_what_it_was_given(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    token = await store.token_add(
        name="pi", kind="device", digest=b"d" * 32, device="pi", now=1.0, expires_at=None
    )
    assert token.device_id is not None
    [tunnel] = await store.tunnels_claim([("web", "http", token.device_id or 0)], 2.0)
    await store.seen({token.id: 3.0}, {token.device_id: 4.0})
    await store.requests_add(packed(row(1, tunnel.id), row(2)))
    await store.close()

    store = await SqliteStore.open(tmp_path / "db")
    [again] = await store.tokens()
    assert (again.name, again.last_used_at) == ("pi", 3.0)
    [device] = await store.devices()
    assert (device.name, device.last_seen_at, device.is_blocked) == ("pi", 4.0, False)
    assert await store.tunnels() == [tunnel]
    first, second = await store.requests_last(10)
    assert (first.request_id, first.tunnel, first.device) == ("r1", "web", "pi")
    assert (second.request_id, second.tunnel) == ("r2", None)
    await store.close()


async def test_a_tunnel_belongs_to_the_device_that_came_first(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    ids = []
    for name in ("one", "two"):
        token = await store.token_add(
            name=name, kind="device", digest=name.encode(), device=name, now=1.0, expires_at=None
        )
        ids.append(token.device_id or 0)
    [first] = await store.tunnels_claim([("web", "http", ids[0])], 1.0)
    assert await store.tunnels_claim([("web", "http", ids[0])], 2.0) == [first]
    both = await store.tunnels_claim([("web", "http", ids[1]), ("api", "http", ids[1])], 3.0)
    assert {tunnel.name: tunnel.device_id for tunnel in both} == {"web": ids[0], "api": ids[1]}
    assert await store.tunnels_claim([], 3.0) == []
    await store.close()


async def test_requests_are_read_from_the_end_after_an_id_and_trimmed(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    assert await store.requests_add(packed(*map(row, range(1, 6)))) == 5
    assert await store.requests_add(packed(*map(row, range(6, 8)))) == 2
    assert await store.requests_add(packed(*map(row, range(8, 11)))) == 3
    assert await store.requests_add(b"") == 0
    assert [item.time_us for item in await store.requests_last(2)] == [9, 10]
    assert [item.time_us for item in await store.requests_last(6)] == [5, 6, 7, 8, 9, 10]
    assert [item.id for item in await store.requests_after(8, 10)] == [9, 10]
    assert [item.id for item in await store.requests_after(3, 5)] == [4, 5, 6, 7, 8]
    await store.requests_trim(4)  # a batch is kept as long as one of its requests is
    assert [item.id for item in await store.requests_last(10)] == [6, 7, 8, 9, 10]
    await store.requests_trim(3)
    assert [item.id for item in await store.requests_after(0, 10)] == [8, 9, 10]
    await store.requests_add(packed(row(11)))
    assert [item.id for item in await store.requests_after(10, 10)] == [11]
    await store.close()


async def test_a_damaged_batch_is_refused_and_reported(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    with pytest.raises(ValueError, match="ends inside a record"):
        await store.requests_add(packed(row(1))[:-1])
    assert await store.requests_last(10) == []
    await store.requests_add(packed(row(3), row(4)))
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE request_batches SET records = substr(records, 1, 100)")
    with pytest.raises(StorageError, match="ends inside a record"):
        await store.requests_last(10)
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE request_batches SET records = ?", (packed(row(3)),))
    with pytest.raises(StorageError, match="1 records instead of 2"):
        await store.requests_after(0, 10)
    await store.close()


async def test_only_writes_of_others_count_as_changes(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    other = await SqliteStore.open(tmp_path / "db")
    assert await store.changed_elsewhere()
    await store.requests_add(packed(row(1)))
    assert not await store.changed_elsewhere()
    await other.requests_add(packed(row(2)))
    assert await store.changed_elsewhere()
    assert not await store.changed_elsewhere()
    await store.close()
    await other.close()


async def test_two_programs_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(SqliteStore.open(tmp_path / "db") for _ in range(4)))
    await asyncio.gather(*(store.requests_add(packed(row(1))) for store in stores))
    assert len(await stores[0].requests_last(10)) == 4
    for store in stores:
        await store.close()


async def test_an_old_database_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(row(1)))
    await store.close()
    step = "ALTER TABLE devices ADD COLUMN note TEXT"
    monkeypatch.setattr(
        "proxy_engine.storage.sqlite.MIGRATIONS", (*MIGRATIONS, (step,), ("SELECT 1",))
    )
    store = await SqliteStore.open(tmp_path / "db")
    assert len(await store.requests_last(10)) == 1
    await store.close()
    with sqlite3.connect(tmp_path / "db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 2,)
        db.execute("SELECT note FROM devices")


async def test_a_failing_migration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await SqliteStore.open(tmp_path / "db")).close()
    steps = ("ALTER TABLE devices ADD COLUMN note TEXT", "THIS IS NOT SQL")
    monkeypatch.setattr("proxy_engine.storage.sqlite.MIGRATIONS", (*MIGRATIONS, steps))
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
    with pytest.raises(StorageError, match="not a database") as caught:
        await SqliteStore.open(tmp_path / "db")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "db").read_bytes() == garbage


async def test_a_database_with_a_torn_page_is_reported_not_raised_raw(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db")
    await store.requests_add(packed(*map(row, range(2000))))
    await store.close()
    data = bytearray((tmp_path / "db").read_bytes())
    data[PAGE_SIZE:] = b"\xff" * (len(data) - PAGE_SIZE)
    (tmp_path / "db").write_bytes(data)
    with pytest.raises(StorageError):
        opened = await SqliteStore.open(tmp_path / "db")
        try:
            await opened.tokens()
            await opened.requests_last(10)
        finally:
            await opened.close()


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
