from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from proxy_engine.storage.history import AUDIT_MAX, DEVICE_EVENTS_MAX, AuditRecord, DeviceEvent
from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.documents import date, struct

_T = TypeVar("_T", bound=msgspec.Struct)


class MongoHistory(Database):
    async def device_events_add(self, events: Sequence[DeviceEvent]) -> None:
        if not events:
            return
        numbers = await self._new_ids("device_events", len(events))
        made = [_record(event, number) for event, number in zip(events, numbers, strict=True)]
        await self._call(self._db.device_events.insert_many(made))
        for device_id in {event.device_id for event in events}:
            await self._trim(device_id)

    async def _trim(self, device_id: int) -> None:
        of_device = {"device_id": device_id}
        newest = self._db.device_events.find(of_device, {"id": 1}).sort("id", -1)
        oldest = await self._call(newest.skip(DEVICE_EVENTS_MAX).limit(1).to_list(None))
        for item in oldest:
            old = {**of_device, "id": {"$lte": item["id"]}}
            await self._call(self._db.device_events.delete_many(old))

    async def device_events(
        self, device_id: int, limit: int, before: int | None = None
    ) -> list[DeviceEvent]:
        query = {"device_id": device_id}
        return await self._newest(DeviceEvent, "device_events", query, limit, before)

    async def audit_begin(self, record: AuditRecord) -> int:
        [number] = await self._new_ids("audit")
        await self._call(self._db.audit.insert_one(_record(record, number)))
        await self._call(self._db.audit.delete_many({"id": {"$lte": number - AUDIT_MAX}}))
        return number

    async def audit_end(self, record_id: int, outcome: str) -> None:
        change = {"$set": {"outcome": outcome}}
        await self._call(self._db.audit.update_one({"id": record_id}, change))

    async def audit(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        return await self._newest(AuditRecord, "audit", {}, limit, before)

    async def _newest(
        self, kind: type[_T], collection: str, query: dict[str, Any], limit: int, before: int | None
    ) -> list[_T]:
        if before is not None:
            query = {**query, "id": {"$lt": before}}
        cursor = self._db[collection].find(query).sort("id", -1).limit(limit)
        return [struct(kind, item) for item in await self._call(cursor.to_list(None))]


def _record(record: DeviceEvent | AuditRecord, number: int) -> dict[str, Any]:
    return {**msgspec.structs.asdict(record), "id": number, "at": date(record.at)}
