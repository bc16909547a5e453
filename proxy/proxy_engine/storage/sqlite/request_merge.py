"""Small batches become large ones, so that a search has few of them to look at.

A quiet server writes a handful of requests at a time, thousands of times an hour. Every
MERGE_BATCHES of them are joined, as far as they fit into MERGE_BYTES; the batches of a busy
server are that large already and are left as they are.
"""

from __future__ import annotations

import sqlite3

MERGE_BATCHES = 64
MERGE_BYTES = 512 << 10

ADD_KEYS = "INSERT INTO request_keys (id, first_us, last_us, format, keys) VALUES (?, ?, ?, ?, ?)"


class Merger:
    """Remembers what was written since it last merged. Used by the writer's thread only."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._bytes = 0

    def added(self, db: sqlite3.Connection, batch_id: int, size: int) -> None:
        """Within the transaction that wrote this batch."""
        if self._bytes + size > MERGE_BYTES:
            self._merge(db)
        self._ids.append(batch_id)
        self._bytes += size
        if len(self._ids) == MERGE_BATCHES:
            self._merge(db)

    def _merge(self, db: sqlite3.Connection) -> None:
        ids, self._ids, self._bytes = self._ids, [], 0
        if len(ids) > 1:
            merge(db, ids[0], ids[-1])


def merge(db: sqlite3.Connection, first: int, last: int) -> None:
    """Make one batch of all from `first` to `last`, whose id it takes."""
    from proxy_engine_core import log_batch, log_index

    place = "WHERE id BETWEEN ? AND ?"
    rows = db.execute(
        f"SELECT size, records, time_us, bytes_total FROM request_batches {place} ORDER BY id",
        (first, last),
    ).fetchall()
    if len(rows) < 2:  # deleted meanwhile: too old
        return
    records = b"".join(row[1] for row in rows)
    db.execute(f"DELETE FROM request_batches {place}", (first, last))
    db.execute(f"DELETE FROM request_keys {place}", (first, last))
    db.execute(
        "INSERT INTO request_batches (id, size, records, time_us, bytes_total)"
        " VALUES (?, ?, ?, ?, ?)",
        (last, sum(row[0] for row in rows), records, max(row[2] for row in rows), rows[-1][3]),
    )
    keys = log_index.index(records)
    db.execute(ADD_KEYS, (last, *log_index.span(records), log_batch.FORMAT, keys))
