"""Requests as documents, one for each, for MongoDB users to query (docs/mongodb.md).

`_id` counts requests up, which is the order of pages; `ts` is the time as a date. Names of
tunnel and device stand beside their numbers, as they were when the request was made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from pymongo.errors import BulkWriteError

from proxy_engine.storage.mongo.database import INDEX_TIMEOUT, Database, raise_unless_there
from proxy_engine.storage.mongo.documents import struct
from proxy_engine.storage.mongo.indexes import TTL_INDEX, by_time
from proxy_engine.storage.requests import Request, Retention

if TYPE_CHECKING:
    from proxy_engine_core.core import LogRecord

NAMES_MAX_AGE = 10.0  # seconds that a name is taken for what it was
DELETE_MAX = 10_000  # requests deleted by one call: it has to end within its timeout
INSERT_MAX = 500  # documents of one call: pymongo encodes them on the event loop

PROJECTION = dict.fromkeys(Request.__struct_fields__, 1)


class _Unfinished(NamedTuple):
    """A batch whose insertion failed on the way: how much of it is there, nobody knows."""

    batch: bytes
    ids: list[int]


class MongoRequests(Database):
    _unfinished = _Unfinished(b"", [])
    _names: dict[str, dict[int, str]]
    _names_at = float("-inf")
    _age: float | None = None  # that the TTL index was made for

    async def requests_add(self, batch: bytes) -> int:
        from proxy_engine_core import log_batch

        records = await asyncio.to_thread(log_batch.unpack, batch)
        if not records:
            return 0
        ids = await self._ids_for(batch, len(records))
        tunnels = await self._names_of("tunnels", {record.route for record in records})
        devices = await self._names_of("devices", {record.device for record in records})
        documents = await asyncio.to_thread(_documents, records, ids, tunnels, devices)
        self._unfinished = _Unfinished(batch, ids)
        await self._call(self._insert(documents))
        self._unfinished = _Unfinished(b"", [])
        return len(records)

    async def _ids_for(self, batch: bytes, count: int) -> list[int]:
        """New numbers; for what begins with a batch that failed, the same again, so that
        nothing is there twice."""
        ids = self._unfinished.ids
        if not ids or not batch.startswith(self._unfinished.batch):
            ids = []
        if len(ids) < count:
            ids = [*ids, *await self._new_ids("requests", count - len(ids))]
        return ids

    async def _insert(self, documents: list[dict[str, Any]]) -> None:
        for start in range(0, len(documents), INSERT_MAX):
            piece = documents[start : start + INSERT_MAX]
            try:
                await self._db.requests.insert_many(piece, ordered=False)
            except BulkWriteError as error:
                raise_unless_there(error)

    async def _names_of(self, collection: str, ids: set[int]) -> dict[int, str]:
        now = time.monotonic()
        if now - self._names_at > NAMES_MAX_AGE:
            self._names, self._names_at = {"tunnels": {}, "devices": {}}, now
        names = self._names[collection]
        if missing := list(ids - names.keys() - {0}):
            cursor = self._db[collection].find({"id": {"$in": missing}}, {"id": 1, "name": 1})
            found = await self._call(cursor.to_list(None))
            names.update((item["id"], item["name"]) for item in found)
        return names

    async def requests_last(self, limit: int) -> list[Request]:
        cursor = self._db.requests.find({}, PROJECTION).sort("_id", -1).limit(limit)
        found = await self._call(cursor.to_list(None))
        return [request_of(item) for item in reversed(found)]

    async def requests_after(self, request_id: int, limit: int) -> list[Request]:
        query = {"_id": {"$gt": request_id}}
        cursor = self._db.requests.find(query, PROJECTION).sort("_id", 1).limit(limit)
        return [request_of(item) for item in await self._call(cursor.to_list(None))]

    async def requests_trim(self, retention: Retention, now: float) -> None:
        await self._expire(retention.age)
        newest = await self._call(self._db.requests.find_one({}, {"_id": 1}, sort=[("_id", -1)]))
        if newest is None:
            return
        keep = retention.count
        if retention.size:
            stats = await self._call(self._db.command("collStats", "requests"))
            if stats["size"] > retention.size:
                fitting = int(stats["count"] * retention.size / stats["size"])
                keep = min(keep or fitting, fitting) or 1
        if keep:
            await self._delete_up_to(newest["_id"] - keep)

    async def _expire(self, age: float) -> None:
        """Have MongoDB delete what is older; 0: nothing."""
        if age == self._age:
            return
        wanted = by_time(age)
        found = await self._call(self._db.requests.index_information())
        there = found.get(TTL_INDEX)
        if there is not None and there.get("expireAfterSeconds") != wanted.document.get(
            "expireAfterSeconds"
        ):
            await self._call(self._db.requests.drop_index(TTL_INDEX))
            there = None
        if there is None:
            await self._call(self._db.requests.create_indexes([wanted]), INDEX_TIMEOUT)
        self._age = age

    async def _delete_up_to(self, last: int) -> None:
        while True:
            query = {"_id": {"$lte": last}}
            cursor = self._db.requests.find(query, {"_id": 1}).sort("_id", 1).limit(1)
            oldest = await self._call(cursor.to_list(None))
            if not oldest:
                return
            step = min(oldest[0]["_id"] + DELETE_MAX - 1, last)
            await self._call(self._db.requests.delete_many({"_id": {"$lte": step}}))


def _documents(
    records: Sequence[LogRecord],
    ids: Sequence[int],
    tunnels: dict[int, str],
    devices: dict[int, str],
) -> list[dict[str, Any]]:
    from proxy_engine_core import log_index

    return [
        {
            "_id": number,
            "ts": DatetimeMS(record.time_us // 1000),
            "device": devices.get(record.device),
            "tunnel": tunnels.get(record.route),
            "method": record.method,
            "host": record.host,
            "path": record.path,
            "status": record.status,
            "reason": record.reason,
            "visitor": record.visitor,
            "request_id": record.request_id,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "total_us": record.total_us,
            "first_byte_us": record.first_byte_us,
            "target_us": record.target_us,
            "proxy_us": record.proxy_us,
            "link_us": record.link_us,
            **_trace(record),
            "flags": record.flags,
            "state": log_index.state(record.status, record.flags, record.reason),
            "time_us": record.time_us,
            "device_id": record.device,
            "tunnel_id": record.route,
        }
        for number, record in zip(ids, records, strict=True)
    ]


def _trace(record: LogRecord) -> dict[str, Any]:
    """Nothing of most requests: only what they have is stored."""
    if not record.trace_id:
        return {}
    names = ("trace_id", "parent_id", "span_id", "trace_flags")
    return {name: value for name in names if (value := getattr(record, name))}


def request_of(found: dict[str, Any]) -> Request:
    return struct(Request, found, id=int(found["_id"]))
