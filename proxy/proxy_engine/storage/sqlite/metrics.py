from __future__ import annotations

import sqlite3

import msgspec

from proxy_engine.storage.metrics import Metric
from proxy_engine.storage.sqlite.database import Database


class SqliteMetrics(Database):
    async def metric_add(self, metric: Metric) -> None:
        # Two of one moment: the clock was set back. What was written last stands.
        query = "INSERT OR REPLACE INTO metrics (type, time_ms, data) VALUES (?, ?, ?)"
        row = (metric.type, _ms(metric.time), msgspec.json.encode(metric.values).decode())
        await self._write(lambda db: db.execute(query, row))

    async def metrics(self, type: str, *, since: float, until: float, limit: int) -> list[Metric]:
        query = (
            "SELECT time_ms, data FROM metrics WHERE type = ? AND time_ms BETWEEN ? AND ?"
            " ORDER BY time_ms DESC LIMIT ?"
        )

        def read(db: sqlite3.Connection) -> list[tuple[int, str]]:
            return db.execute(query, (type, _ms(since), _ms(until), limit)).fetchall()

        return [
            Metric(time=time_ms / 1000, type=type, values=msgspec.json.decode(data))
            for time_ms, data in reversed(await self._read(read))
        ]

    async def metrics_trim(self, before: float) -> None:
        query = "DELETE FROM metrics WHERE time_ms < ?"
        await self._write(lambda db: db.execute(query, (_ms(before),)))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
