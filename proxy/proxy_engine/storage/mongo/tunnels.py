from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from proxy_engine.storage.mongo.database import DUPLICATE_KEY, Database
from proxy_engine.storage.mongo.documents import document, struct
from proxy_engine.storage.tunnels import Tunnel


class MongoTunnels(Database):
    async def tunnels(self) -> list[Tunnel]:
        found = await self._call(self._db.tunnels.find().sort("id").to_list(None))
        return [struct(Tunnel, item) for item in found]

    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        names = [name for name, _, _ in claims]
        found = {tunnel.name: tunnel for tunnel in await self._named(names)}
        new = [claim for claim in claims if claim[0] not in found]
        if not new:
            return list(found.values())
        ids = await self._new_ids("tunnels", len(new))
        updates = [
            UpdateOne(
                {"name": name},
                {
                    "$setOnInsert": document(
                        {"id": number, "kind": kind, "device_id": device_id, "created_at": now}
                    )
                },
                upsert=True,
            )
            for number, (name, kind, device_id) in zip(ids, new, strict=True)
        ]
        await self._call(self._claim(updates))
        await self._wrote()
        return await self._named(names)

    async def _claim(self, updates: list[UpdateOne]) -> None:
        try:
            await self._db.tunnels.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            # Two who make one name at once: the second finds it taken.
            if any(item["code"] != DUPLICATE_KEY for item in error.details["writeErrors"]):
                raise

    async def _named(self, names: Sequence[str]) -> list[Tunnel]:
        cursor = self._db.tunnels.find({"name": {"$in": list(names)}})
        return [struct(Tunnel, item) for item in await self._call(cursor.to_list(None))]
