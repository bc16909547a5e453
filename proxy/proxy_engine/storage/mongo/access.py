from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from proxy_engine.grants import ANY, UNLIMITED, Limits, Scopes
from proxy_engine.storage.access import Device, NameTaken, Sighting, Token
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
            raise NameTaken("token", name)
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
            raise NameTaken("token", name) from None
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
        projection = {"_id": 0, "id": 1, "name": 1, "is_blocked": 1, "certificate_names": 1}
        cursor = self._db.devices.find({"id": {"$in": list(ids)}}, projection)
        owners = {owner["id"]: owner for owner in await self._call(cursor.to_list(None))}
        return [_token(item, owners.get(item["device_id"])) for item in found]

    async def token_rotate(
        self, name: str, digest: bytes, now: float, old_expires_at: float
    ) -> Token | None:
        change = {
            "old_digest": "$digest",
            "old_expires_at": date(old_expires_at),
            "digest": digest,
        }
        result = await self._call(
            self._db.tokens.update_one({"name": name, **_live(now)}, [{"$set": change}])
        )
        if not result.modified_count:
            return None
        await self._wrote()
        return next(iter(await self._tokens({"name": name})), None)

    async def token_change(self, name: str, now: float, *, limits: Limits) -> Token | None:
        change = {"$set": document({"limits": limits})}
        result = await self._call(self._db.tokens.update_one({"name": name, **_live(now)}, change))
        if not result.matched_count:
            return None
        await self._wrote()
        return next(iter(await self._tokens({"name": name})), None)

    async def token_revoke(self, name: str, now: float) -> bool:
        result = await self._call(
            self._db.tokens.update_one(
                {"name": name, "revoked_at": None}, {"$set": {"revoked_at": date(now)}}
            )
        )
        # Also if it was revoked already: by who tried before, perhaps, and could not say so.
        await self._wrote()
        return bool(result.modified_count)

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, Sighting]) -> None:
        used = [
            UpdateOne({"id": number}, {"$set": {"last_used_at": date(at)}})
            for number, at in tokens.items()
        ]
        sighted = [UpdateOne({"id": number}, _sighted(seen)) for number, seen in devices.items()]
        for collection, updates in (("tokens", used), ("devices", sighted)):
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

    async def device_add(self, name: str, labels: Mapping[str, str], now: float) -> Device:
        [number] = await self._new_ids("devices")
        made = {"id": number, "name": name, **_new_device(now), "labels": dict(labels)}
        try:
            await self._call(self._db.devices.insert_one(made))
        except DuplicateKeyError:
            raise NameTaken("device", name) from None
        await self._wrote()
        return struct(Device, made)

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
            "labels": None if labels is None else dict(labels),
            "is_blocked": is_blocked,
            "kicked_at": kicked_at,
            "certificate_names": None if certificate_names is None else list(certificate_names),
        }
        changes = document({field: value for field, value in given.items() if value is not None})
        if not changes:
            return next((struct(Device, item) for item in await self._devices(name)), None)
        try:
            found = await self._call(
                self._db.devices.find_one_and_update(
                    {"name": name}, {"$set": changes}, return_document=ReturnDocument.AFTER
                )
            )
        except DuplicateKeyError:
            raise NameTaken("device", new_name or name) from None
        if found is None:
            return None
        await self._wrote()
        return struct(Device, found)

    async def device_delete(self, name: str) -> bool:
        for device in await self._devices(name):
            # The device last: what was not finished is found again.
            for collection in ("tokens", "tunnels", "device_events"):
                of_device = {"device_id": device["id"]}
                await self._call(self._db[collection].delete_many(of_device))
            await self._call(self._db.devices.delete_one({"id": device["id"]}))
            await self._wrote()
            return True
        return False

    async def _devices(self, name: str) -> list[dict[str, Any]]:
        return list((await self._named("devices", [name])).values())


def _sighted(seen: Sighting) -> dict[str, Any]:
    texts = {"address": seen.address, "agent": seen.agent, "platform": seen.platform}
    changed: dict[str, Any] = {name: text for name, text in texts.items() if text}
    counts = ("links", "requests", "bytes_in", "bytes_out")
    update: dict[str, Any] = {"$inc": {name: getattr(seen, name) for name in counts}}
    if seen.at is not None:
        changed["last_seen_at"] = date(seen.at)
        update["$min"] = {"first_seen_at": date(seen.at)}  # which is not there at first
    return {**update, "$set": changed} if changed else update


def _live(now: float) -> dict[str, Any]:
    return {
        "revoked_at": None,
        "$or": [{"expires_at": None}, {"expires_at": {"$gt": date(now)}}],
    }


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
        certificate_names=(owner or {}).get("certificate_names", ()),
    )
