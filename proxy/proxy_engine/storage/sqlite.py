"""The default store: one SQLite file in WAL mode.

Two connections, each with a thread of its own: all writes queue up behind one writer (SQLite
allows no more), and reads never wait for it, so that a large batch of request logs does
not delay a device's handshake. Other processes (`proxy-engine token`) open the same file
at any time; the busy timeout lets writers take turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from proxy_engine.errors import StorageError, error_text
from proxy_engine.storage import Device, NameTaken, Request, Token, Tunnel
from proxy_engine.storage.migrations import MIGRATIONS

if TYPE_CHECKING:
    from proxy_engine_core.core import LogRecord

DATABASE_NAME = "proxy-engine.sqlite"
BUSY_TIMEOUT = 5.0  # seconds a writer waits for another process's write
PAGE_SIZE = 16384
_T = TypeVar("_T")

_TOKEN = """
    SELECT t.id, t.name, t.kind, t.digest, t.device_id, d.name, coalesce(d.is_blocked, 0),
           t.created_at, t.expires_at, t.revoked_at, t.last_used_at
    FROM tokens t LEFT JOIN devices d ON d.id = t.device_id
"""


def database_path(data_dir: Path) -> Path:
    return data_dir / DATABASE_NAME


def create_data_dir(data_dir: Path) -> None:
    """Make the directory for nobody else's eyes. Raises StorageError."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"data dir {data_dir}: {error_text(error)}") from None
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(f"data dir {data_dir}: Permission denied")


class SqliteStore:
    """Implements storage.Store. Open with `await SqliteStore.open(path)`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_thread = ThreadPoolExecutor(1, "store-writer")
        self._read_thread = ThreadPoolExecutor(1, "store-reader")
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._data_version = -1

    @classmethod
    async def open(cls, path: Path, *, create: bool = True) -> SqliteStore:
        """Open and migrate the database. Raises StorageError with one clear line."""
        store = cls(path)
        try:
            await store._run(store._write_thread, lambda: store._open_writer(create))
            await store._run(store._read_thread, store._open_reader)
        except BaseException:
            await store.close()
            raise
        return store

    def _open_writer(self, create: bool) -> None:
        if not create and not self._path.exists():
            raise StorageError(f"no database in {self._path.parent}: has the server run there?")
        # Created by us first, so that it is never readable by others, not for a moment;
        # SQLite gives its -wal and -shm files the same mode.
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageError(f"database {self._path}: {error_text(error)}") from None
        self._writer = self._connect()
        # Only a new file takes it: a batch of requests is long, and larger pages are fewer.
        self._writer.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        version: int = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StorageError(
                f"database {self._path} is of a newer proxy-engine (schema {version}, this "
                f"version knows {len(MIGRATIONS)}); upgrade proxy-engine"
            )
        self._switch_to_wal()
        # WAL with NORMAL can lose the last transactions in a power cut, never corrupt.
        self._writer.execute("PRAGMA synchronous = NORMAL")
        self._writer.execute("PRAGMA foreign_keys = ON")
        self._migrate()

    def _switch_to_wal(self) -> None:
        # The one statement that does not wait for the busy timeout: somebody else may be
        # opening the same new file at this moment.
        deadline = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _open_reader(self) -> None:
        self._reader = self._connect()
        self._reader.execute("PRAGMA query_only = ON")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT, isolation_level=None, cached_statements=64
        )

    def _migrate(self) -> None:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")  # two programs may start at once
        with writer:
            version = writer.execute("PRAGMA user_version").fetchone()[0]
            for number, statements in enumerate(MIGRATIONS[version:], version + 1):
                for statement in statements:
                    writer.execute(statement)
                writer.execute(f"PRAGMA user_version = {number}")

    async def close(self) -> None:
        """Idempotent."""
        for thread, name in ((self._read_thread, "_reader"), (self._write_thread, "_writer")):
            connection: sqlite3.Connection | None = getattr(self, name, None)
            if connection is not None:
                await self._run(thread, connection.close)
                delattr(self, name)
            thread.shutdown(wait=False)

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except sqlite3.DatabaseError as error:
            raise StorageError(f"database {self._path}: {error}") from error

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._run(self._read_thread, lambda: work(self._reader))

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def transaction() -> _T:
            self._writer.execute("BEGIN IMMEDIATE")
            with self._writer:  # commits, or rolls back on an exception
                return work(self._writer)

        return await self._run(self._write_thread, transaction)

    async def ping(self) -> None:
        await self._read(lambda db: db.execute("SELECT 1 FROM tokens LIMIT 1").fetchone())
        await self._write(lambda db: None)

    async def changed_elsewhere(self) -> bool:
        def look() -> bool:
            # Moves only when another connection has written; asked on the writer, our
            # own writes do not count.
            version: int = self._writer.execute("PRAGMA data_version").fetchone()[0]
            changed, self._data_version = version != self._data_version, version
            return changed

        return await self._run(self._write_thread, look)

    # Tokens

    async def token_add(
        self,
        *,
        name: str,
        kind: str,
        digest: bytes,
        device: str | None,
        now: float,
        expires_at: float | None,
    ) -> Token:
        def add(db: sqlite3.Connection) -> Token:
            if db.execute("SELECT 1 FROM tokens WHERE name = ?", (name,)).fetchone():
                raise NameTaken(name)
            device_id = None
            if device is not None:
                db.execute(
                    "INSERT OR IGNORE INTO devices (name, created_at) VALUES (?, ?)",
                    (device, now),
                )
                row = db.execute("SELECT id FROM devices WHERE name = ?", (device,)).fetchone()
                device_id = row[0]
            db.execute(
                "INSERT INTO tokens (name, kind, digest, device_id, created_at, expires_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (name, kind, digest, device_id, now, expires_at),
            )
            return _token(db.execute(_TOKEN + "WHERE t.name = ?", (name,)).fetchone())

        return await self._write(add)

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        query = f"{_TOKEN} WHERE t.digest IN ({','.join('?' * len(digests))})"
        rows = await self._read(lambda db: db.execute(query, digests).fetchall())
        return {token.digest: token for token in map(_token, rows)}

    async def tokens(self) -> list[Token]:
        rows = await self._read(lambda db: db.execute(_TOKEN + "ORDER BY t.id").fetchall())
        return [_token(row) for row in rows]

    async def token_revoke(self, name: str, now: float) -> bool:
        query = "UPDATE tokens SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL"
        return await self._write(lambda db: db.execute(query, (now, name)).rowcount > 0)

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, float]) -> None:
        def update(db: sqlite3.Connection) -> None:
            for query, times in (
                ("UPDATE tokens SET last_used_at = ? WHERE id = ?", tokens),
                ("UPDATE devices SET last_seen_at = ? WHERE id = ?", devices),
            ):
                db.executemany(query, [(at, row_id) for row_id, at in times.items()])

        await self._write(update)

    # Devices and tunnels

    async def devices(self) -> list[Device]:
        query = _DEVICE + "ORDER BY id"
        return [_device(row) for row in await self._read(lambda db: db.execute(query).fetchall())]

    async def tunnels(self) -> list[Tunnel]:
        rows = await self._read(lambda db: db.execute(_TUNNEL + "ORDER BY id").fetchall())
        return [_tunnel(row) for row in rows]

    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        def claim(db: sqlite3.Connection) -> list[Tunnel]:
            db.executemany(
                "INSERT OR IGNORE INTO tunnels (name, kind, device_id, created_at)"
                " VALUES (?, ?, ?, ?)",
                [(*claim, now) for claim in claims],
            )
            query = _TUNNEL + "WHERE name IN (SELECT value FROM json_each(?))"
            names = json.dumps([name for name, _, _ in claims])
            return [_tunnel(row) for row in db.execute(query, (names,)).fetchall()]

        return await self._write(claim)

    # The request log

    async def requests_add(self, batch: bytes) -> int:
        from proxy_engine_core import log_batch  # the engine: not for every command line

        count = log_batch.count(batch)
        query = (
            "INSERT INTO request_batches (id, size, records)"
            " SELECT coalesce(max(id), 0) + :count, :count, :records FROM request_batches"
        )
        if count:
            await self._write(lambda db: db.execute(query, {"count": count, "records": batch}))
        return count

    async def requests_last(self, limit: int) -> list[Request]:
        def read(db: sqlite3.Connection) -> list[Request]:
            query = "SELECT id, size, records FROM request_batches ORDER BY id DESC"
            found: list[_Numbered] = []
            for batch in db.execute(query):
                found[:0] = _numbered(*batch)
                if len(found) >= limit:
                    break
            return _with_names(db, found[-limit:])

        return await self._read(read)

    async def requests_after(self, request_id: int, limit: int) -> list[Request]:
        def read(db: sqlite3.Connection) -> list[Request]:
            query = "SELECT id, size, records FROM request_batches WHERE id > ? ORDER BY id"
            found: list[_Numbered] = []
            for batch in db.execute(query, (request_id,)):
                found.extend(item for item in _numbered(*batch) if item[0] > request_id)
                if len(found) >= limit:
                    break
            return _with_names(db, found[:limit])

        return await self._read(read)

    async def requests_trim(self, keep: int) -> None:
        query = "DELETE FROM request_batches WHERE id <= (SELECT max(id) FROM request_batches) - ?"
        await self._write(lambda db: db.execute(query, (keep,)))


# What a stored request has as the engine gave it.
_RECORD_FIELDS = [
    name for name in Request.__struct_fields__ if name not in ("id", "tunnel", "device")
]
_DEVICE = "SELECT id, name, created_at, is_blocked, last_seen_at FROM devices "
_TUNNEL = "SELECT id, name, kind, device_id, created_at FROM tunnels "


def _fields(kind: type[msgspec.Struct], row: tuple[object, ...]) -> dict[str, Any]:
    return dict(zip(kind.__struct_fields__, row, strict=True))


def _token(row: tuple[object, ...]) -> Token:
    fields = _fields(Token, row)
    return Token(**{**fields, "is_blocked": bool(fields["is_blocked"])})


def _device(row: tuple[object, ...]) -> Device:
    fields = _fields(Device, row)
    return Device(**{**fields, "is_blocked": bool(fields["is_blocked"])})


def _tunnel(row: tuple[object, ...]) -> Tunnel:
    return Tunnel(**_fields(Tunnel, row))


_Numbered = tuple[int, "LogRecord"]


def _numbered(last: int, size: int, records: bytes) -> list[_Numbered]:
    """The requests of one batch with their ids. Raises StorageError if it is damaged."""
    from proxy_engine_core import log_batch

    try:
        found = log_batch.unpack(records)
    except ValueError as error:
        raise StorageError(f"request log before {last}: {error}") from None
    if len(found) != size:
        raise StorageError(f"request log before {last}: {len(found)} records instead of {size}")
    return list(enumerate(found, last - size + 1))


def _with_names(db: sqlite3.Connection, found: Sequence[_Numbered]) -> list[Request]:
    tunnels = _names(db, "tunnels", {record.route for _, record in found})
    devices = _names(db, "devices", {record.device for _, record in found})
    return [
        Request(
            id=number,
            tunnel=tunnels.get(record.route),
            device=devices.get(record.device),
            **{name: getattr(record, name) for name in _RECORD_FIELDS},
        )
        for number, record in found
    ]


def _names(db: sqlite3.Connection, table: str, ids: Iterable[int]) -> dict[int, str]:
    query = f"SELECT name FROM {table} WHERE id = ?"
    rows = ((row_id, db.execute(query, (row_id,)).fetchone()) for row_id in ids)
    return {row_id: row[0] for row_id, row in rows if row is not None}
