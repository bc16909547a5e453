from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from proxy_engine.grants import ANY, UNLIMITED, Limits, Scopes
from proxy_engine.storage.access import Device, NameTaken, Sighting, Token
from proxy_engine.storage.sqlite.database import Database, fields

_TOKEN = """
    SELECT t.id, t.name, t.kind, t.digest, t.device_id, d.name, coalesce(d.is_blocked, 0),
           t.created_at, t.expires_at, t.revoked_at, t.last_used_at,
           t.old_digest, t.old_expires_at, t.scopes, t.limits,
           coalesce(d.certificate_names, '[]')
    FROM tokens t LEFT JOIN devices d ON d.id = t.device_id
"""
_DEVICE = f"SELECT {', '.join(Device.__struct_fields__)} FROM devices "
# In the order of the fields of Sighting.
_SIGHTED = """
    UPDATE devices SET
        first_seen_at = coalesce(first_seen_at, ?1), last_seen_at = coalesce(?1, last_seen_at),
        address = coalesce(nullif(?2, ''), address), agent = coalesce(nullif(?3, ''), agent),
        platform = coalesce(nullif(?4, ''), platform), links = links + ?5,
        requests = requests + ?6, bytes_in = bytes_in + ?7, bytes_out = bytes_out + ?8
    WHERE id = ?9
"""


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
                raise NameTaken("token", name)
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

    async def token_change(self, name: str, now: float, *, limits: Limits) -> Token | None:
        def change(db: sqlite3.Connection) -> Token | None:
            update = (
                "UPDATE tokens SET limits = ?"
                " WHERE name = ? AND revoked_at IS NULL AND coalesce(expires_at > ?, 1)"
            )
            if not db.execute(update, (_json(limits), name, now)).rowcount:
                return None
            return _token(db.execute(_TOKEN + "WHERE t.name = ?", (name,)).fetchone())

        return await self._write(change)

    async def token_revoke(self, name: str, now: float) -> bool:
        query = "UPDATE tokens SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL"
        return await self._write(lambda db: db.execute(query, (now, name)).rowcount > 0)

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, Sighting]) -> None:
        def update(db: sqlite3.Connection) -> None:
            used = ((at, row_id) for row_id, at in tokens.items())
            db.executemany("UPDATE tokens SET last_used_at = ? WHERE id = ?", used)
            sighted = ((*msgspec.structs.astuple(seen), row_id) for row_id, seen in devices.items())
            db.executemany(_SIGHTED, sighted)

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

    async def device_add(self, name: str, labels: Mapping[str, str], now: float) -> Device:
        def add(db: sqlite3.Connection) -> Device:
            if db.execute("SELECT 1 FROM devices WHERE name = ?", (name,)).fetchone():
                raise NameTaken("device", name)
            insert = "INSERT INTO devices (name, labels, created_at) VALUES (?, ?, ?)"
            db.execute(insert, (name, _json(labels), now))
            return _device(db.execute(_DEVICE + "WHERE name = ?", (name,)).fetchone())

        return await self._write(add)

    async def device_change(
        self,
        name: str,
        *,
        new_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        is_blocked: bool | None = None,
        kicked_at: float | None = None,
        certificate_names: Sequence[str] | None = None,
    ) -> Device | None:
        given = {
            "name": new_name,
            "labels": None if labels is None else _json(labels),
            "is_blocked": is_blocked,
            "kicked_at": kicked_at,
            "certificate_names": None if certificate_names is None else _json(certificate_names),
        }
        changes = {column: value for column, value in given.items() if value is not None}

        def change(db: sqlite3.Connection) -> Device | None:
            row = db.execute("SELECT id FROM devices WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            if changes:
                columns = ", ".join(f"{column} = ?" for column in changes)
                query = f"UPDATE devices SET {columns} WHERE id = ?"
                try:
                    db.execute(query, (*changes.values(), *row))
                except sqlite3.IntegrityError:
                    raise NameTaken("device", new_name or name) from None
            return _device(db.execute(_DEVICE + "WHERE id = ?", row).fetchone())

        return await self._write(change)

    async def device_delete(self, name: str) -> bool:
        query = "DELETE FROM devices WHERE name = ?"  # and what refers to it
        return await self._write(lambda db: db.execute(query, (name,)).rowcount > 0)


def _json(value: Scopes | Limits | Mapping[str, str] | Sequence[str]) -> str:
    return msgspec.json.encode(value).decode()


def _token(row: tuple[object, ...]) -> Token:
    found = fields(Token, row)
    return Token(
        **{
            **found,
            "is_blocked": bool(found["is_blocked"]),
            "scopes": msgspec.json.decode(found["scopes"], type=Scopes),
            "limits": msgspec.json.decode(found["limits"], type=Limits),
            "certificate_names": _names(found["certificate_names"]),
        }
    )


def _device(row: tuple[object, ...]) -> Device:
    found = fields(Device, row)
    return Device(
        **{
            **found,
            "is_blocked": bool(found["is_blocked"]),
            "labels": msgspec.json.decode(found["labels"], type=dict[str, str]),
            "certificate_names": _names(found["certificate_names"]),
        }
    )


def _names(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
