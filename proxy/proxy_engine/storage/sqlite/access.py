from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from proxy_engine.grants import ANY, UNLIMITED, Limits, Scopes
from proxy_engine.storage.access import Device, NameTaken, Token
from proxy_engine.storage.sqlite.database import Database, fields

_TOKEN = """
    SELECT t.id, t.name, t.kind, t.digest, t.device_id, d.name, coalesce(d.is_blocked, 0),
           t.created_at, t.expires_at, t.revoked_at, t.last_used_at,
           t.old_digest, t.old_expires_at, t.scopes, t.limits
    FROM tokens t LEFT JOIN devices d ON d.id = t.device_id
"""
_DEVICE = "SELECT id, name, created_at, is_blocked, last_seen_at, owner_token_id FROM devices "


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
        scopes: Scopes = ANY,
        limits: Limits = UNLIMITED,
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
                "INSERT INTO tokens"
                " (name, kind, digest, device_id, created_at, expires_at, scopes, limits)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (name, kind, digest, device_id, now, expires_at, _json(scopes), _json(limits)),
            )
            return _token(db.execute(_TOKEN + "WHERE t.name = ?", (name,)).fetchone())

        return await self._write(add)

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        marks = ",".join("?" * len(digests))
        query = f"{_TOKEN} WHERE t.digest IN ({marks}) OR t.old_digest IN ({marks})"
        rows = await self._read(lambda db: db.execute(query, [*digests, *digests]).fetchall())
        found = [_token(row) for row in rows]
        by_digest = {token.digest: token for token in found}
        by_digest |= {token.old_digest: token for token in found if token.old_digest}
        return {digest: by_digest[digest] for digest in digests if digest in by_digest}

    async def tokens(self) -> list[Token]:
        rows = await self._read(lambda db: db.execute(_TOKEN + "ORDER BY t.id").fetchall())
        return [_token(row) for row in rows]

    async def token_rotate(
        self, name: str, digest: bytes, now: float, old_expires_at: float
    ) -> Token | None:
        def rotate(db: sqlite3.Connection) -> Token | None:
            changed = db.execute(
                "UPDATE tokens SET old_digest = digest, old_expires_at = ?, digest = ?"
                " WHERE name = ? AND revoked_at IS NULL AND coalesce(expires_at > ?, 1)",
                (old_expires_at, digest, name, now),
            )
            if not changed.rowcount:
                return None
            return _token(db.execute(_TOKEN + "WHERE t.name = ?", (name,)).fetchone())

        return await self._write(rotate)

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

    async def devices_claim(
        self, claims: Sequence[tuple[str, int]], now: float
    ) -> dict[str, Device]:
        def claim(db: sqlite3.Connection) -> dict[str, Device]:
            db.executemany(
                "INSERT OR IGNORE INTO devices (name, created_at, owner_token_id) VALUES (?, ?, ?)",
                [(name, now, token_id) for name, token_id in claims],
            )
            query = _DEVICE + "WHERE name IN (SELECT value FROM json_each(?))"
            rows = db.execute(query, (json.dumps([name for name, _ in claims]),)).fetchall()
            return {device.name: device for device in map(_device, rows)}

        return await self._write(claim)


def _json(grant: Scopes | Limits) -> str:
    return msgspec.json.encode(grant).decode()


def _token(row: tuple[object, ...]) -> Token:
    found = fields(Token, row)
    return Token(
        **{
            **found,
            "is_blocked": bool(found["is_blocked"]),
            "scopes": msgspec.json.decode(found["scopes"], type=Scopes),
            "limits": msgspec.json.decode(found["limits"], type=Limits),
        }
    )


def _device(row: tuple[object, ...]) -> Device:
    found = fields(Device, row)
    return Device(**{**found, "is_blocked": bool(found["is_blocked"])})
