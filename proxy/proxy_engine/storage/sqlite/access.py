from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from proxy_engine.storage.access import Device, NameTaken, Token
from proxy_engine.storage.sqlite.database import Database, fields

_TOKEN = """
    SELECT t.id, t.name, t.kind, t.digest, t.device_id, d.name, coalesce(d.is_blocked, 0),
           t.created_at, t.expires_at, t.revoked_at, t.last_used_at
    FROM tokens t LEFT JOIN devices d ON d.id = t.device_id
"""
_DEVICE = "SELECT id, name, created_at, is_blocked, last_seen_at FROM devices "


class SqliteAccess(Database):
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

    async def devices(self) -> list[Device]:
        query = _DEVICE + "ORDER BY id"
        return [_device(row) for row in await self._read(lambda db: db.execute(query).fetchall())]


def _token(row: tuple[object, ...]) -> Token:
    found = fields(Token, row)
    return Token(**{**found, "is_blocked": bool(found["is_blocked"])})


def _device(row: tuple[object, ...]) -> Device:
    found = fields(Device, row)
    return Device(**{**found, "is_blocked": bool(found["is_blocked"])})
