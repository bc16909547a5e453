"""In `state`: the generation beside the count of writes, the key in a document of its own."""

from __future__ import annotations

import secrets

from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.shared import KEY_SIZE


class MongoShared(Database):
    async def access_generation(self) -> bytes:
        made = {"$setOnInsert": {"writes": 0, "generation": secrets.token_bytes(16)}}
        found = await self._call(self._db.state.find_one({"_id": "access"}, {"generation": 1}))
        if found is None:
            found = await self._state("access", made)
        # Without one: written last by a version that had none.
        return bytes(found.get("generation", bytes(16)))

    async def shared_key(self) -> bytes:
        made = {"$setOnInsert": {"key": secrets.token_bytes(KEY_SIZE)}}
        return bytes((await self._state("shared_key", made))["key"])
