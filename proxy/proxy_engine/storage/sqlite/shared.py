"""The generation is moved by triggers (migrations.py): in the transaction of the write, and
whoever makes it."""

from __future__ import annotations

import secrets
import sqlite3

from proxy_engine.storage.shared import KEY_SIZE
from proxy_engine.storage.sqlite.database import Database


class SqliteShared(Database):
    async def access_generation(self) -> bytes:
        return await self._read(lambda db: _value(db, "access_generation"))

    async def shared_key(self) -> bytes:
        def make(db: sqlite3.Connection) -> bytes:
            insert = "INSERT OR IGNORE INTO shared (name, value) VALUES ('key', ?)"
            db.execute(insert, (secrets.token_bytes(KEY_SIZE),))
            return _value(db, "key")

        return await self._write(make)


def _value(db: sqlite3.Connection, name: str) -> bytes:
    value: bytes = db.execute("SELECT value FROM shared WHERE name = ?", (name,)).fetchone()[0]
    return value
