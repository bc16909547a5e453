from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from proxy_engine.storage.access import NameTaken
from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.documents import document, struct
from proxy_engine.storage.tunnels import DomainTaken, PortTaken, Tunnel

# Fields that a document has only if there is something to say: unique indexes leave it out then.
_SPARSE = ("port", "domains")
_BY_OPERATORS = ("updated_at", "is_enabled", "target", "maintenance", "options", "domains")


class MongoTunnels(Database):
    async def tunnels(self) -> list[Tunnel]:
        found = await self._call(self._db.tunnels.find().sort("id").to_list(None))
        return [struct(Tunnel, item) for item in found]

    async def tunnel(self, name: str) -> Tunnel | None:
        found = await self._call(self._db.tunnels.find_one({"name": name}))
        return None if found is None else struct(Tunnel, found)

    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        wanted = {
            name: document({"kind": kind, "device_id": device_id, "created_at": now, "version": 1})
            for name, kind, device_id in claims
        }
        found = await self._claim("tunnels", wanted)
        return [struct(Tunnel, item) for item in found.values()]

    async def tunnel_add(self, tunnel: Tunnel) -> Tunnel:
        if await self._named("tunnels", [tunnel.name]):
            raise NameTaken("tunnel", tunnel.name)
        [number] = await self._new_ids("tunnels")
        made = msgspec.structs.replace(tunnel, id=number, version=1)
        try:
            await self._call(self._db.tunnels.insert_one(_document(made)))
        except DuplicateKeyError:
            if await self._named("tunnels", [tunnel.name]):  # two at once
                raise NameTaken("tunnel", tunnel.name) from None
            domain = await self._taken(made)
            raise (DomainTaken(domain) if domain else PortTaken(tunnel.port)) from None
        await self._wrote(access=False)
        return made

    async def tunnel_change(self, tunnel_id: int, *, kind: str, port: int | None) -> Tunnel | None:
        change: dict[str, dict[str, Any]] = {"$set": {"kind": kind}, "$inc": {"version": 1}}
        if port is None:
            change["$unset"] = {"port": ""}
        else:
            others = {"kind": kind, "port": port, "id": {"$ne": tunnel_id}}
            taken = {"$unset": {"port": ""}, "$inc": {"version": 1}}
            await self._call(self._db.tunnels.update_many(others, taken))
            change["$set"]["port"] = port
        return await self._change({"id": tunnel_id}, change)

    async def tunnel_update(self, tunnel: Tunnel) -> Tunnel | None:
        made = _document(tunnel)
        values = {name: made[name] for name in _BY_OPERATORS if name in made}
        change = {"$set": values, "$inc": {"version": 1}}
        if "domains" not in made:
            change["$unset"] = {"domains": ""}
        try:
            return await self._change({"id": tunnel.id, "version": tunnel.version}, change)
        except DuplicateKeyError:
            raise DomainTaken(await self._taken(tunnel)) from None

    async def tunnel_delete(self, name: str) -> bool:
        result = await self._call(self._db.tunnels.delete_one({"name": name}))
        if result.deleted_count:
            await self._wrote(access=False)
        return bool(result.deleted_count)

    async def _change(self, query: dict[str, Any], change: dict[str, Any]) -> Tunnel | None:
        found = await self._call(
            self._db.tunnels.find_one_and_update(
                query, change, return_document=ReturnDocument.AFTER
            )
        )
        if found is None:
            return None
        await self._wrote(access=False)
        return struct(Tunnel, found)

    async def _taken(self, tunnel: Tunnel) -> str:
        """The domain of these that another tunnel has."""
        names = [domain.name for domain in tunnel.domains]
        query = {"domains.name": {"$in": names}, "id": {"$ne": tunnel.id}}
        other = await self._call(self._db.tunnels.find_one(query))
        theirs = {domain["name"] for domain in other["domains"]} if other else set()
        return next((name for name in names if name in theirs), "")


def _document(tunnel: Tunnel) -> dict[str, Any]:
    domains = sorted(tunnel.domains, key=lambda domain: domain.name)
    made = document({**msgspec.structs.asdict(tunnel), "domains": msgspec.to_builtins(domains)})
    return {name: value for name, value in made.items() if name not in _SPARSE or value}
