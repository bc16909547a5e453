"""Searching packed requests: batches by time, then their keys, then the records that are left.

The keys of a batch (proxy_engine_core.log_index) are in a table of their own, so that a search by
device, tunnel, status, state, duration or request id reads 20 bytes of each request that does
not match. Method, host, path and the like are looked up in the records themselves.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from proxy_engine.errors import StorageError
from proxy_engine.storage.requests import (
    U63_MAX,
    PathCount,
    RequestPage,
    RequestQuery,
    RequestSummary,
)
from proxy_engine.storage.sqlite.database import Database
from proxy_engine.storage.sqlite.requests import Numbered, with_names

if TYPE_CHECKING:
    from proxy_engine_core.log_index import LogFilter

SCAN_SECONDS = 2.0  # until a page ends where it is
SUMMARY_SECONDS = 5.0
READ_ALONE_MAX = 32  # candidates of a batch; with more of them, all of it is read
KEY_SIZE = 20  # of a LogKey
PERCENTILES = (50, 90, 95, 99)


class SqliteRequestSearch(Database):
    async def requests_search(
        self, query: RequestQuery, *, limit: int, before: int | None = None
    ) -> RequestPage:
        return await self._scan(lambda db: _search(db, query, limit, before))

    async def requests_summary(self, query: RequestQuery, *, paths: int = 10) -> RequestSummary:
        return await self._scan(lambda db: _summary(db, query, paths))


def _search(
    db: sqlite3.Connection, query: RequestQuery, limit: int, before: int | None
) -> RequestPage:
    deadline = time.monotonic() + SCAN_SECONDS
    found: list[Numbered] = []
    following: int | None = None
    wanted = _filter(db, query)
    if wanted is not None:
        for last in _batches(db, query, before):
            in_batch = _find(db, last, wanted)
            if before is not None:
                in_batch = [item for item in in_batch if item[0] < before]
            found.extend(reversed(in_batch))
            if len(found) > limit:
                found = found[:limit]
                following = found[-1][0]
                break
            if time.monotonic() > deadline:
                following = last - _size(db, last) + 1
                break
    return RequestPage(with_names(db, found), following)


def _summary(db: sqlite3.Connection, query: RequestQuery, paths: int) -> RequestSummary:
    from proxy_engine_core.log_index import LogSummary

    deadline = time.monotonic() + SUMMARY_SECONDS
    summary = LogSummary()
    is_partial = False
    wanted = _filter(db, query)
    if wanted is not None:
        for last in _batches(db, query, None):
            if is_partial := time.monotonic() > deadline:
                break
            with _damage(last):
                if not wanted.is_keyed or wanted.candidates(_keys(db, last)):
                    summary.add(_records(db, last), wanted)
    return RequestSummary(
        count=summary.count,
        bytes_in=summary.bytes_in,
        bytes_out=summary.bytes_out,
        statuses=summary.status_counts(),
        states=summary.states(),
        paths=[PathCount(*each) for each in summary.top_paths(paths)],
        percentiles_us={str(percent): summary.percentile(percent) for percent in PERCENTILES},
        max_us=summary.max_us,
        is_partial=is_partial,
    )


def _filter(db: sqlite3.Connection, query: RequestQuery) -> LogFilter | None:
    """None: nothing can match."""
    from proxy_engine.storage.packed import packed_filter

    ids: dict[str, list[int] | None] = {"devices": None, "tunnels": None}
    for table, name in (("devices", query.device), ("tunnels", query.tunnel)):
        if name is not None:
            rows = db.execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).fetchall()
            ids[table] = [row[0] for row in rows]
            if not rows:
                return None
    return packed_filter(query, devices=ids["devices"], tunnels=ids["tunnels"])


def _batches(db: sqlite3.Connection, query: RequestQuery, before: int | None) -> Iterator[int]:
    """Ids of the batches that may hold something, the newest first."""
    from proxy_engine_core.log_batch import READABLE

    edge = None
    if before is not None:
        first = "SELECT min(id) FROM request_keys WHERE id >= ?"
        edge = db.execute(first, (before - 1,)).fetchone()[0]
    edge = U63_MAX if edge is None else edge
    rows: Iterable[tuple[int, int]]
    if query.since_us or query.until_us != U63_MAX:
        # In the order of times, which is not quite that of ids: clocks are set, journals replayed.
        by_time = (
            "SELECT id, format FROM request_keys INDEXED BY request_keys_time"
            " WHERE last_us >= ? AND first_us <= ? AND id <= ?"
        )
        rows = sorted(db.execute(by_time, (query.since_us, query.until_us, edge)), reverse=True)
    else:
        by_id = "SELECT id, format FROM request_keys WHERE id <= ? ORDER BY id DESC"
        rows = db.execute(by_id, (edge,))
    for last, layout in rows:
        if layout not in READABLE:
            raise StorageError(f"request log before {last}: of another version of proxy-engine")
        yield last


def _find(db: sqlite3.Connection, last: int, wanted: LogFilter) -> list[Numbered]:
    with _damage(last):
        if wanted.is_keyed:
            keys = _keys(db, last)
            first = last - len(keys) // KEY_SIZE + 1
            places = wanted.candidates(keys)
            if not places:
                return []
            if len(places) <= READ_ALONE_MAX:
                found = []
                with db.blobopen("request_batches", "records", last, readonly=True) as blob:
                    for number, offset, length in places:
                        blob.seek(offset)
                        matching = wanted.find(blob.read(length))
                        found += [(first + number, record) for _, record in matching]
                return found
        first = last - _size(db, last) + 1
        return [(first + number, record) for number, record in wanted.find(_records(db, last))]


def _keys(db: sqlite3.Connection, last: int) -> bytes:
    query = "SELECT keys FROM request_keys WHERE id = ?"
    found: bytes = db.execute(query, (last,)).fetchone()[0]
    return found


def _records(db: sqlite3.Connection, last: int) -> bytes:
    query = "SELECT records FROM request_batches WHERE id = ?"
    found: bytes = db.execute(query, (last,)).fetchone()[0]
    return found


def _size(db: sqlite3.Connection, last: int) -> int:
    query = "SELECT size FROM request_batches WHERE id = ?"
    found: int = db.execute(query, (last,)).fetchone()[0]
    return found


@contextlib.contextmanager
def _damage(last: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise StorageError(f"request log before {last}: {error}") from None
