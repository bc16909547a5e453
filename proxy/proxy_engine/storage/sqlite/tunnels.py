from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from proxy_engine.storage.sqlite.database import Database, fields
from proxy_engine.storage.tunnels import Tunnel

_TUNNEL = "SELECT id, name, kind, device_id, created_at, port FROM tunnels "


class SqliteTunnels(Database):
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

    async def tunnel_change(self, tunnel_id: int, *, kind: str, port: int | None) -> None:
        def change(db: sqlite3.Connection) -> None:
            db.execute("UPDATE tunnels SET port = NULL WHERE port = ? AND kind = ?", (port, kind))
            db.execute(
                "UPDATE tunnels SET kind = ?, port = ? WHERE id = ?", (kind, port, tunnel_id)
            )

        await self._write(change)


def _tunnel(row: tuple[object, ...]) -> Tunnel:
    return Tunnel(**fields(Tunnel, row))
