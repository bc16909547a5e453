"""One SQLite file in WAL mode: opened, checked, migrated, and worked on by two threads.

Two connections, each with a thread of its own: all writes queue up behind one writer (SQLite
allows no more), and reads never wait for it, so that a large batch of request logs does
not delay a device's handshake. Other processes (`proxy-engine token`) open the same file
at any time; the busy timeout lets writers take turns.

What fails (locked, disk full, damaged) or takes longer than CALL_TIMEOUT is a StorageError of
that one call, and what it would have written is not.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from proxy_engine.errors import StorageError, error_text
from proxy_engine.storage.sqlite.migrations import MIGRATIONS

DATABASE_NAME = "proxy-engine.sqlite"
BUSY_TIMEOUT = 5.0  # seconds a writer waits for another process's write
CALL_TIMEOUT = 10.0  # seconds until a call is given up, the wait for its thread included
PAGE_SIZE = 16384
JOURNAL_SIZE_MAX = 64 << 20  # bytes of the -wal file that stay when a checkpoint has emptied it
# Small, and nothing works without them: a database whose tables are damaged is not used.
CHECKED_TABLES = ("devices", "tokens", "tunnels")
DAMAGED = "put a backup in its place, or move it away to begin with an empty one"
# Bytes of the file that searches read where they are: as many as SQLite allows. The newest
# requests are at its end, and what is not mapped is copied, a page for each few bytes.
SCAN_MAPPED = 0x7FFF0000
SCAN_CACHE = 16 << 10  # KiB of pages of a larger file
_T = TypeVar("_T")


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


class _GivenUp(Exception):
    """Nobody waits for this transaction any more."""


class _Patience:
    """Between who waits for a write and the thread that makes it: either the one gives up or the
    other commits, so that a write which was reported as failed is never made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_ended = False
        self._is_committing = False

    def end(self) -> bool:
        """Give up; False if it is too late for that, and the answer is about to come."""
        with self._lock:
            self._has_ended = not self._is_committing
            return self._has_ended

    def commit(self) -> None:
        """Raises _GivenUp if nobody waits."""
        with self._lock:
            if self._has_ended:
                raise _GivenUp
            self._is_committing = True


class Database:
    """What the parts of the store have in common: _read() and _write()."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_thread = ThreadPoolExecutor(1, "store-writer")
        self._read_thread = ThreadPoolExecutor(1, "store-reader")
        self._scan_thread = ThreadPoolExecutor(1, "store-scanner")
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._scanner: sqlite3.Connection  # once it is needed
        self._data_version = -1
        self._is_closed = False

    @classmethod
    async def open(cls, path: Path, *, create: bool = True) -> Self:
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
        # Only a new file takes these two: a batch of requests is long, and larger pages are fewer.
        self._writer.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        version: int = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StorageError(
                f"database {self._path} is of a newer proxy-engine (schema {version}, this "
                f"version knows {len(MIGRATIONS)}); upgrade proxy-engine"
            )
        self._switch_to_wal()
        # WAL with NORMAL can lose the last transactions in a power cut, never corrupt.
        self._writer.execute("PRAGMA synchronous = NORMAL")
        self._writer.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_MAX}")
        self._writer.execute("PRAGMA foreign_keys = ON")
        self._migrate()
        self._check()

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

    def _open_scanner(self) -> None:
        self._scanner = self._connect()
        self._scanner.execute("PRAGMA query_only = ON")
        # Reads of a few bytes from here and there, without copying pages.
        self._scanner.execute(f"PRAGMA mmap_size = {SCAN_MAPPED}")
        self._scanner.execute(f"PRAGMA cache_size = -{SCAN_CACHE}")

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

    def _check(self) -> None:
        for table in CHECKED_TABLES:
            found: str = self._writer.execute(f"PRAGMA quick_check({table})").fetchone()[0]
            if found != "ok":
                raise StorageError(
                    f"database {self._path} is damaged: {found.splitlines()[-1]}; {DAMAGED}"
                )

    async def close(self) -> None:
        """Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for thread, name in (
            (self._scan_thread, "_scanner"),
            (self._read_thread, "_reader"),
            (self._write_thread, "_writer"),
        ):
            # In its thread: whoever opens was perhaps cancelled, and the thread still opens.
            await self._run(thread, partial(self._disconnect, name))
            thread.shutdown(wait=False)

    def _disconnect(self, name: str) -> None:
        connection: sqlite3.Connection | None = self.__dict__.pop(name, None)
        if connection is not None:
            connection.close()

    async def _run(
        self, thread: ThreadPoolExecutor, work: Callable[[], _T], patience: _Patience | None = None
    ) -> _T:
        patience = patience or _Patience()
        future = asyncio.get_running_loop().run_in_executor(thread, work)
        try:
            done, _ = await asyncio.wait({future}, timeout=CALL_TIMEOUT)
        except asyncio.CancelledError:
            patience.end()
            future.cancel()
            raise
        if not done and patience.end():
            future.cancel()
            raise StorageError(f"database {self._path}: no answer within {CALL_TIMEOUT:g} s")
        try:
            return await future
        except sqlite3.DatabaseError as error:
            what = f"{error}; {DAMAGED}" if _is_damage(error) else error
            raise StorageError(f"database {self._path}: {what}") from error

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._run(self._read_thread, lambda: work(self._reader))

    async def _scan(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """For what may take long: other reads do not wait behind it."""

        def scan() -> _T:
            if not hasattr(self, "_scanner"):
                self._open_scanner()
            self._scanner.execute("BEGIN")  # what it reads does not change under it
            with self._scanner:
                return work(self._scanner)

        return await self._run(self._scan_thread, scan)

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """In a transaction: all of it or, on an exception, nothing."""
        patience = _Patience()

        def transaction() -> _T:
            self._writer.execute("BEGIN IMMEDIATE")
            with self._writer:  # commits, or rolls back on an exception
                result = work(self._writer)
                patience.commit()
                return result

        return await self._run(self._write_thread, transaction, patience)

    async def _write_alone(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Outside of a transaction, for what is one by itself."""
        return await self._run(self._write_thread, lambda: work(self._writer))

    async def ping(self) -> None:
        if not self._path.exists():  # SQLite goes on in a file that nobody will ever find
            raise StorageError(f"database {self._path} was moved or deleted; restart")
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


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what it says in detail
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def fields(kind: type[msgspec.Struct], row: tuple[object, ...]) -> dict[str, Any]:
    """A row as the arguments of the struct whose fields it has, in their order."""
    return dict(zip(kind.__struct_fields__, row, strict=True))
