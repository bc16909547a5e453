from __future__ import annotations

from collections.abc import Sequence

from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.documents import document, struct
from proxy_engine.storage.tunnels import Tunnel


class MongoTunnels(Database):
    async def tunnels(self) -> list[Tunnel]:
        found = await self._call(self._db.tunnels.find().sort("id").to_list(None))
        return [struct(Tunnel, item) for item in found]

    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        wanted = {
            name: document({"kind": kind, "device_id": device_id, "created_at": now})
            for name, kind, device_id in claims
        }
        found = await self._claim("tunnels", wanted)
        return [struct(Tunnel, item) for item in found.values()]

    async def tunnel_change(self, tunnel_id: int, *, kind: str, port: int | None) -> None:
        change: dict[str, dict[str, object]] = {"$set": {"kind": kind}, "$unset": {"port": ""}}
        if port is not None:
            others = {"kind": kind, "port": port, "id": {"$ne": tunnel_id}}
            await self._call(self._db.tunnels.update_many(others, {"$unset": {"port": ""}}))
            change = {"$set": {"kind": kind, "port": port}}
        await self._call(self._db.tunnels.update_one({"id": tunnel_id}, change))
