"""Requests stay packed, a batch to a row (docs/adr/0009).

A batch knows the time of its newest request and how many bytes were ever stored up to and
with it, so that trimming reads from the oldest batch to the first that stays, and no further.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy_engine.errors import StorageError
from proxy_engine.storage.requests import Request, Retention, request_of
from proxy_engine.storage.sqlite.database import Database
from proxy_engine.storage.sqlite.request_merge import ADD_KEYS, Merger

if TYPE_CHECKING:
    from proxy_engine_core.core import LogRecord

FREE_SHARE_MAX = 0.25  # of the file, free pages; more are given back to the system ...
VACUUM_PAGES = 256  # ... so many at a time, for others write too; fewer are left as they are

Numbered = tuple[int, "LogRecord"]


class SqliteRequests(Database):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._merger = Merger()

    async def requests_add(self, batch: bytes) -> int:
        from proxy_engine_core import log_batch, log_index  # the engine: not for every command

        count = log_batch.count(batch)
        values = {"count": count, "records": batch, "size": len(batch)}
        values["time_us"] = log_batch.newest(batch)
        query = (
            "INSERT INTO request_batches (id, size, records, time_us, bytes_total)"
            " SELECT coalesce(max(id), 0) + :count, :count, :records, :time_us,"
            " coalesce((SELECT bytes_total FROM request_batches ORDER BY id DESC LIMIT 1), 0)"
            " + :size FROM request_batches"
        )
        if count:
            keys = log_index.index(batch)

            def add(db: sqlite3.Connection) -> None:
                row = db.execute(query, values).lastrowid
                db.execute(ADD_KEYS, (row, *log_index.span(batch), log_batch.FORMAT, keys))
                self._merger.added(db, row or 0, len(batch))

            await self._write(add)
        return count

    async def requests_last(self, limit: int) -> list[Request]:
        def read(db: sqlite3.Connection) -> list[Request]:
            query = "SELECT id, size, records FROM request_batches ORDER BY id DESC"
            found: list[Numbered] = []
            for batch in db.execute(query):
                found[:0] = numbered(*batch)
                if len(found) >= limit:
                    break
            return with_names(db, found[-limit:])

        return await self._read(read)

    async def requests_after(self, request_id: int, limit: int) -> list[Request]:
        def read(db: sqlite3.Connection) -> list[Request]:
            query = "SELECT id, size, records FROM request_batches WHERE id > ? ORDER BY id"
            found: list[Numbered] = []
            for batch in db.execute(query, (request_id,)):
                found.extend(item for item in numbered(*batch) if item[0] > request_id)
                if len(found) >= limit:
                    break
            return with_names(db, found[:limit])

        return await self._read(read)

    async def requests_trim(self, retention: Retention, now: float) -> None:
        def trim(db: sqlite3.Connection) -> int:
            # The newest batch always stays: ids and bytes are counted on from it.
            newest = "SELECT id, bytes_total FROM request_batches ORDER BY id DESC LIMIT 1"
            last, total = db.execute(newest).fetchone() or (0, 0)
            kept = [
                ("id > ?", retention.count and last - retention.count),
                ("time_us >= ?", retention.age and int((now - retention.age) * 1e6)),
                ("bytes_total > ?", retention.size and total - retention.size),
            ]
            deleted = 0
            for condition, limit in kept:
                if limit:
                    query = f"SELECT id FROM request_batches WHERE {condition} ORDER BY id LIMIT 1"
                    first = (db.execute(query, (limit,)).fetchone() or (last,))[0]
                    delete = "DELETE FROM request_batches WHERE id < ?"
                    deleted += db.execute(delete, (first,)).rowcount
                    db.execute("DELETE FROM request_keys WHERE id < ?", (first,))
            return deleted

        if await self._write(trim):
            while await self._write_alone(_give_back_pages):
                pass


def _give_back_pages(db: sqlite3.Connection) -> bool:
    """Shrink the file a little if much of it is free; whether there is more to do."""
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    free: int = db.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= pages * FREE_SHARE_MAX or free < VACUUM_PAGES:
        return False
    db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    # Nothing comes back from a file made without auto_vacuum: its pages are used again.
    return bool(db.execute("PRAGMA freelist_count").fetchone()[0] < free)


def numbered(last: int, size: int, records: bytes) -> list[Numbered]:
    """The requests of one batch with their ids. Raises StorageError if it is damaged."""
    from proxy_engine_core import log_batch

    try:
        found = log_batch.unpack(records)
    except ValueError as error:
        raise StorageError(f"request log before {last}: {error}") from None
    if len(found) != size:
        raise StorageError(f"request log before {last}: {len(found)} records instead of {size}")
    return list(enumerate(found, last - size + 1))


def with_names(db: sqlite3.Connection, found: Sequence[Numbered]) -> list[Request]:
    from proxy_engine_core import log_index

    tunnels = _names(db, "tunnels", {record.route for _, record in found})
    devices = _names(db, "devices", {record.device for _, record in found})
    return [
        request_of(
            number,
            record,
            tunnels.get(record.route),
            devices.get(record.device),
            log_index.state(record.status, record.flags, record.reason),
        )
        for number, record in found
    ]


def _names(db: sqlite3.Connection, table: str, ids: Iterable[int]) -> dict[int, str]:
    query = f"SELECT id, name FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
    return dict(db.execute(query, (json.dumps(list(ids)),)))
