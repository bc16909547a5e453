"""Searching requests that are documents, by the indexes of indexes.py."""

from __future__ import annotations

import asyncio
import datetime
import re
from typing import Any

from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.requests import PROJECTION, request_of
from proxy_engine.storage.requests import (
    U63_MAX,
    RequestPage,
    RequestQuery,
    RequestSummary,
)

SUMMARY_MAX = 100_000  # requests that a summary looks at, the newest
PERCENTILES = (50, 90, 95, 99)


class MongoRequestSearch(Database):
    async def requests_search(
        self, query: RequestQuery, *, limit: int, before: int | None = None
    ) -> RequestPage:
        wanted = _filter(query)
        if before is not None:
            wanted["_id"] = {"$lt": before}
        cursor = self._db.requests.find(wanted, PROJECTION).sort("_id", -1).limit(limit + 1)
        found = [request_of(item) for item in await self._call(cursor.to_list(None))]
        following = found[limit - 1].id if len(found) > limit else None
        return RequestPage(found[:limit], following)

    async def requests_summary(self, query: RequestQuery, *, paths: int = 10) -> RequestSummary:
        cursor = self._db.requests.find(_filter(query), PROJECTION).sort("_id", -1)
        found = await self._call(cursor.limit(SUMMARY_MAX + 1).to_list(None))
        return await asyncio.to_thread(_summary, found, paths)


def _filter(query: RequestQuery) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for name in (
        "device", "tunnel", "state", "method", "host", "visitor", "reason", "request_id",
    ):  # fmt: skip
        if (text := getattr(query, name)) is not None:
            wanted[name] = text
    if query.path is not None:
        wanted["path"] = {"$regex": re.escape(query.path), "$options": "i"}
    if query.status != (0, 65535):
        wanted["status"] = {"$gte": query.status[0], "$lte": query.status[1]}
    if query.total_us != (0, U63_MAX):
        wanted["total_us"] = {"$gte": query.total_us[0], "$lte": query.total_us[1]}
    if query.since_us:
        # `ts` has milliseconds and the indexes, `time_us` is exact.
        wanted["ts"] = {"$gte": _date(query.since_us // 1000)}
        wanted["time_us"] = {"$gte": query.since_us}
    if query.until_us != U63_MAX:
        wanted.setdefault("ts", {})["$lte"] = _date(query.until_us // 1000)
        wanted.setdefault("time_us", {})["$lte"] = query.until_us
    return wanted


def _date(ms: int) -> datetime.datetime:
    epoch = datetime.datetime.fromtimestamp(0, datetime.UTC)
    try:
        return epoch + datetime.timedelta(milliseconds=ms)
    except OverflowError:
        return datetime.datetime.max.replace(tzinfo=datetime.UTC)


def _summary(found: list[dict[str, Any]], paths: int) -> RequestSummary:
    from proxy_engine_core import log_batch, log_index
    from proxy_engine_core.core import LogRecord

    summary = log_index.LogSummary()
    for item in found[:SUMMARY_MAX]:
        fields = {name: item[name] for name in LogRecord._fields if name in item}
        summary.add(log_batch.pack([LogRecord(**{**fields, "route": 0, "device": 0})]))
    return RequestSummary(
        count=summary.count,
        bytes_in=summary.bytes_in,
        bytes_out=summary.bytes_out,
        statuses=summary.status_counts(),
        states=summary.states(),
        paths=summary.top_paths(paths),
        percentiles_us={str(percent): summary.percentile(percent) for percent in PERCENTILES},
        max_us=summary.max_us,
        is_partial=len(found) > SUMMARY_MAX,
    )
