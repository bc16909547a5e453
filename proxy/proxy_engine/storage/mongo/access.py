from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from proxy_engine.grants import ANY, UNLIMITED, Limits, Scopes
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
        scopes: Scopes = ANY,
        limits: Limits = UNLIMITED,
    ) -> Token:
        if await self._call(self._db.tokens.find_one({"name": name}, {"_id": 1})):
            raise NameTaken(name)
        owner = None
        if device is not None:
            owner = (await self._claim("devices", {device: _new_device(now)}))[device]
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
                "scopes": scopes,
                "limits": limits,
            }
        )
        try:
            await self._call(self._db.tokens.insert_one(made))
        except DuplicateKeyError:
            raise NameTaken(name) from None
        await self._wrote()
        return _token(made, owner)

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        any_of = {"$in": list(digests)}
        found = await self._tokens({"$or": [{"digest": any_of}, {"old_digest": any_of}]})
        by_digest = {token.digest: token for token in found}
        by_digest |= {token.old_digest: token for token in found if token.old_digest}
        return {digest: by_digest[digest] for digest in digests if digest in by_digest}

    async def tokens(self) -> list[Token]:
        return await self._tokens({})

    async def _tokens(self, query: Mapping[str, Any]) -> list[Token]:
        found = await self._call(self._db.tokens.find(query).sort("id").to_list(None))
        ids = {item["device_id"] for item in found} - {None}
        projection = {"_id": 0, "id": 1, "name": 1, "is_blocked": 1}
        cursor = self._db.devices.find({"id": {"$in": list(ids)}}, projection)
        owners = {owner["id"]: owner for owner in await self._call(cursor.to_list(None))}
        return [_token(item, owners.get(item["device_id"])) for item in found]

    async def token_rotate(
        self, name: str, digest: bytes, now: float, old_expires_at: float
    ) -> Token | None:
        is_live = {
            "revoked_at": None,
            "$or": [{"expires_at": None}, {"expires_at": {"$gt": date(now)}}],
        }
        change = {
            "old_digest": "$digest",
            "old_expires_at": date(old_expires_at),
            "digest": digest,
        }
        result = await self._call(
            self._db.tokens.update_one({"name": name, **is_live}, [{"$set": change}])
        )
        if not result.modified_count:
            return None
        await self._wrote()
        return next(iter(await self._tokens({"name": name})), None)

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

    async def devices_claim(
        self, claims: Sequence[tuple[str, int]], now: float
    ) -> dict[str, Device]:
        wanted = {name: _new_device(now, token_id) for name, token_id in claims}
        found = await self._claim("devices", wanted)
        return {name: struct(Device, item) for name, item in found.items()}


def _new_device(now: float, owner_token_id: int | None = None) -> dict[str, Any]:
    return document(
        {
            "created_at": now,
            "is_blocked": False,
            "last_seen_at": None,
            "owner_token_id": owner_token_id,
        }
    )


def _token(found: Mapping[str, Any], owner: Mapping[str, Any] | None) -> Token:
    return struct(
        Token,
        found,
        device=owner and owner["name"],
        is_blocked=bool(owner and owner["is_blocked"]),
    )
