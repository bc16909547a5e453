from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from proxy_engine.storage.access import Device, NameTaken, Token
from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.documents import date, document, struct


class MongoAccess(Database):
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
        if await self._call(self._db.tokens.find_one({"name": name}, {"_id": 1})):
            raise NameTaken(name)
        owner = None if device is None else await self._device(device, now)
        [number] = await self._new_ids("tokens")
        made = document(
            {
                "id": number,
                "name": name,
                "kind": kind,
                "digest": digest,
                "device_id": owner and owner["id"],
                "created_at": now,
                "expires_at": expires_at,
                "revoked_at": None,
                "last_used_at": None,
            }
        )
        try:
            await self._call(self._db.tokens.insert_one(made))
        except DuplicateKeyError:
            raise NameTaken(name) from None
        await self._wrote()
        return _token(made, owner)

    async def _device(self, name: str, now: float) -> dict[str, Any]:
        """The device of this name, made if it is new."""
        found: dict[str, Any] | None = await self._call(self._db.devices.find_one({"name": name}))
        if found is not None:
            return found
        [number] = await self._new_ids("devices")
        fields = {"id": number, "created_at": now, "is_blocked": False, "last_seen_at": None}
        try:
            await self._call(self._db.devices.insert_one(document({"name": name, **fields})))
        except DuplicateKeyError:
            pass  # somebody else made it just now
        made: dict[str, Any] = await self._call(self._db.devices.find_one({"name": name}))
        return made

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        found = await self._tokens({"digest": {"$in": list(digests)}})
        return {token.digest: token for token in found}

    async def tokens(self) -> list[Token]:
        return await self._tokens({})

    async def _tokens(self, query: Mapping[str, Any]) -> list[Token]:
        found = await self._call(self._db.tokens.find(query).sort("id").to_list(None))
        ids = {item["device_id"] for item in found} - {None}
        projection = {"_id": 0, "id": 1, "name": 1, "is_blocked": 1}
        cursor = self._db.devices.find({"id": {"$in": list(ids)}}, projection)
        owners = {owner["id"]: owner for owner in await self._call(cursor.to_list(None))}
        return [_token(item, owners.get(item["device_id"])) for item in found]

    async def token_revoke(self, name: str, now: float) -> bool:
        result = await self._call(
            self._db.tokens.update_one(
                {"name": name, "revoked_at": None}, {"$set": {"revoked_at": date(now)}}
            )
        )
        if result.modified_count:
            await self._wrote()
        return bool(result.modified_count)

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, float]) -> None:
        for collection, field, times in (
            ("tokens", "last_used_at", tokens),
            ("devices", "last_seen_at", devices),
        ):
            updates = [
                UpdateOne({"id": number}, {"$set": {field: date(at)}})
                for number, at in times.items()
            ]
            if updates:
                await self._call(self._db[collection].bulk_write(updates, ordered=False))

    async def devices(self) -> list[Device]:
        found = await self._call(self._db.devices.find().sort("id").to_list(None))
        return [struct(Device, item) for item in found]


def _token(found: Mapping[str, Any], owner: Mapping[str, Any] | None) -> Token:
    return struct(
        Token,
        found,
        device=owner and owner["name"],
        is_blocked=bool(owner and owner["is_blocked"]),
    )
