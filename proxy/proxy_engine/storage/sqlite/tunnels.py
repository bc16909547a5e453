from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from proxy_engine.storage.access import NameTaken
from proxy_engine.storage.sqlite.database import Database, fields
from proxy_engine.storage.tunnels import DomainTaken, PortTaken, Tunnel
from proxy_engine.tunnels.options import NONE, Domain, Maintenance, Options

_TUNNEL = """
    SELECT id, name, kind, device_id, created_at, port, version, updated_at, is_enabled, target,
           maintenance, options,
           (SELECT json_group_array(json_object('name', d.name, 'is_agents', d.is_agents))
            FROM (SELECT * FROM tunnel_domains WHERE tunnel_id = tunnels.id ORDER BY name) d)
    FROM tunnels
"""


class SqliteTunnels(Database):
    async def tunnels(self) -> list[Tunnel]:
        # There may be thousands: made in the reader's thread.
        return await self._read(
            lambda db: [_tunnel(row) for row in db.execute(_TUNNEL + "ORDER BY id")]
        )

    async def tunnel(self, name: str) -> Tunnel | None:
        query = _TUNNEL + "WHERE name = ?"
        row = await self._read(lambda db: db.execute(query, (name,)).fetchone())
        return None if row is None else _tunnel(row)

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

    async def tunnel_add(self, tunnel: Tunnel) -> Tunnel:
        def add(db: sqlite3.Connection) -> Tunnel:
            if db.execute("SELECT 1 FROM tunnels WHERE name = ?", (tunnel.name,)).fetchone():
                raise NameTaken("tunnel", tunnel.name)
            taken = "SELECT 1 FROM tunnels WHERE kind = ? AND port = ?"
            if db.execute(taken, (tunnel.kind, tunnel.port)).fetchone():
                raise PortTaken(tunnel.port)
            made = db.execute(
                "INSERT INTO tunnels (name, kind, device_id, created_at, port)"
                " VALUES (?, ?, ?, ?, ?) RETURNING id",
                (tunnel.name, tunnel.kind, tunnel.device_id, tunnel.created_at, tunnel.port),
            ).fetchone()
            _write_options(db, msgspec.structs.replace(tunnel, id=made[0]))
            return _find(db, made[0])

        return await self._write(add)

    async def tunnel_change(self, tunnel_id: int, *, kind: str, port: int | None) -> Tunnel | None:
        def change(db: sqlite3.Connection) -> Tunnel | None:
            db.execute(
                "UPDATE tunnels SET port = NULL, version = version + 1"
                " WHERE kind = ? AND port = ? AND id != ?",
                (kind, port, tunnel_id),
            )
            changed = db.execute(
                "UPDATE tunnels SET kind = ?, port = ?, version = version + 1 WHERE id = ?",
                (kind, port, tunnel_id),
            )
            return _find(db, tunnel_id) if changed.rowcount else None

        return await self._write(change)

    async def tunnel_update(self, tunnel: Tunnel) -> Tunnel | None:
        def update(db: sqlite3.Connection) -> Tunnel | None:
            changed = db.execute(
                "UPDATE tunnels SET version = version + 1 WHERE id = ? AND version = ?",
                (tunnel.id, tunnel.version),
            )
            if not changed.rowcount:
                return None
            _write_options(db, tunnel)
            return _find(db, tunnel.id)

        return await self._write(update)

    async def tunnel_delete(self, name: str) -> bool:
        query = "DELETE FROM tunnels WHERE name = ?"  # and its domains
        return await self._write(lambda db: db.execute(query, (name,)).rowcount > 0)


def _write_options(db: sqlite3.Connection, tunnel: Tunnel) -> None:
    db.execute(
        "UPDATE tunnels SET updated_at = ?, is_enabled = ?, target = ?, maintenance = ?,"
        " options = ? WHERE id = ?",
        (
            tunnel.updated_at,
            tunnel.is_enabled,
            tunnel.target,
            None if tunnel.maintenance is None else _json(tunnel.maintenance),
            _json(tunnel.options),
            tunnel.id,
        ),
    )
    db.execute("DELETE FROM tunnel_domains WHERE tunnel_id = ?", (tunnel.id,))
    for domain in tunnel.domains:
        made = db.execute(
            "INSERT OR IGNORE INTO tunnel_domains (name, tunnel_id, is_agents) VALUES (?, ?, ?)",
            (domain.name, tunnel.id, domain.is_agents),
        )
        if not made.rowcount:
            raise DomainTaken(domain.name)


def _find(db: sqlite3.Connection, tunnel_id: int) -> Tunnel:
    return _tunnel(db.execute(_TUNNEL + "WHERE id = ?", (tunnel_id,)).fetchone())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _tunnel(row: tuple[object, ...]) -> Tunnel:
    found = fields(Tunnel, row)
    maintenance, options, domains = found["maintenance"], found["options"], found["domains"]
    # Most have nothing of all this, and share it.
    return Tunnel(
        **{
            **found,
            "kind": sys.intern(str(found["kind"])),
            "is_enabled": bool(found["is_enabled"]),
            "maintenance": maintenance and msgspec.json.decode(maintenance, type=Maintenance),
            "options": NONE if options == "{}" else msgspec.json.decode(options, type=Options),
            "domains": () if domains == "[]" else tuple(map(_domain, json.loads(domains))),
        }
    )


def _domain(item: dict[str, Any]) -> Domain:
    return Domain(name=item["name"], is_agents=bool(item["is_agents"]))
