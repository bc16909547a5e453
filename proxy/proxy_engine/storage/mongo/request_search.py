"""Searching requests that are documents, by the indexes of indexes.py."""

from __future__ import annotations

import datetime
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.requests import PROJECTION, request_of
from proxy_engine.storage.requests import (
    U63_MAX,
    PathCount,
    RequestPage,
    RequestQuery,
    RequestSummary,
)
from proxy_engine_core.log_index import STATES

SUMMARY_MAX = 100_000  # requests that a summary looks at, the newest
BUCKET_WIDTH = 0.058  # of the logarithm of a duration: 6 %, as log_index has them
STATUSES_MAX = 100  # listed one by one: as a range they would not be in the order of time
PERCENTILES = (50, 90, 95, 99)


class MongoRequestSearch(Database):
    async def requests_search(
        self, query: RequestQuery, *, limit: int, before: int | None = None
    ) -> RequestPage:
        wanted = _filter(query)
        order = [("_id", -1)]
        if _is_indexed(wanted):
            # By time, as the index has them: by number MongoDB would sort all that match, or
            # walk through all that do not.
            order = [("ts", -1), ("_id", -1)]
        if before is not None:
            wanted = {"$and": [wanted, await self._behind(before, order)]}
        cursor = self._db.requests.find(wanted, PROJECTION).sort(order).limit(limit + 1)
        found = [request_of(item) for item in await self._call(cursor.to_list(None))]
        following = found[limit - 1].id if len(found) > limit else None
        return RequestPage(found[:limit], following)

    async def _behind(self, before: int, order: list[tuple[str, int]]) -> dict[str, Any]:
        """What comes after this request in this order."""
        smaller = {"_id": {"$lt": before}}
        if order[0][0] == "_id":
            return smaller
        found = await self._call(self._db.requests.find_one({"_id": before}, {"ts": 1}))
        if found is None:  # deleted meanwhile, and most that is older with it
            return smaller
        return {"$or": [{"ts": {"$lt": found["ts"]}}, {"ts": found["ts"], **smaller}]}

    async def requests_summary(self, query: RequestQuery, *, paths: int = 10) -> RequestSummary:
        cursor = self._db.requests.aggregate(_pipeline(query, paths), allowDiskUse=True)
        [found] = await self._call(_to_list(cursor))
        return _summary(found, paths)


def _filter(query: RequestQuery) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for name in (
        "device", "tunnel", "state", "method", "host", "visitor", "reason", "request_id",
        "trace_id",
    ):  # fmt: skip
        if (text := getattr(query, name)) is not None:
            wanted[name] = text
    if query.path is not None:
        wanted["path"] = {"$regex": re.escape(query.path), "$options": "i"}
    if query.status != (0, 65535):
        low, high = query.status
        if high - low < STATUSES_MAX:
            wanted["status"] = {"$in": list(range(low, high + 1))}
        else:
            wanted["status"] = {"$gte": low, "$lte": high}
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


def _is_indexed(wanted: Mapping[str, Any]) -> bool:
    """Whether an index has what is wanted in the order of time."""
    return "device" in wanted or "$in" in wanted.get("status", ())


async def _to_list(cursor: Any) -> list[dict[str, Any]]:
    # motor gives a cursor, pymongo's client one that has to be awaited first.
    ready = await cursor if inspect.isawaitable(cursor) else cursor
    found: list[dict[str, Any]] = await ready.to_list(None)
    return found


def _pipeline(query: RequestQuery, paths: int) -> list[dict[str, Any]]:
    """Counts of the newest that match, made where they are."""
    times: dict[str, Any] = {"requests": {"$sum": 1}}
    path = _first_piece(_first_piece("$path", "?"), "#")
    bucket = {"$floor": {"$divide": [{"$ln": {"$max": ["$total_us", 1]}}, BUCKET_WIDTH]}}
    totals = {
        **times,
        "bytes_in": {"$sum": "$bytes_in"},
        "bytes_out": {"$sum": "$bytes_out"},
        "max_us": {"$max": "$total_us"},
    }
    frequent = [{"$sort": {"requests": -1, "_id": 1}}, {"$limit": paths}] if paths else []
    return [
        {"$match": _filter(query)},
        {"$sort": {"ts": -1}},
        {"$limit": SUMMARY_MAX + 1},
        {
            "$facet": {
                "totals": [{"$group": {"_id": None, **totals}}],
                "statuses": [{"$group": {"_id": "$status", **times}}],
                "states": [{"$group": {"_id": "$state", **times}}],
                "buckets": [{"$group": {"_id": bucket, **times}}],
                "paths": [{"$group": {"_id": path, **times}}, *frequent],
            }
        },
    ]


def _first_piece(text: Any, mark: str) -> dict[str, Any]:
    return {"$arrayElemAt": [{"$split": [text, mark]}, 0]}


def _summary(found: Mapping[str, Any], paths: int) -> RequestSummary:
    nothing = {"requests": 0, "bytes_in": 0, "bytes_out": 0, "max_us": 0}
    totals = next(iter(found["totals"]), nothing)
    times = {
        name: {item["_id"]: int(item["requests"]) for item in found[name]}
        for name in ("statuses", "states", "buckets", "paths")
    }
    return RequestSummary(
        count=totals["requests"],
        bytes_in=totals["bytes_in"],
        bytes_out=totals["bytes_out"],
        statuses=times["statuses"],
        states={state: times["states"].get(state, 0) for state in STATES},
        paths=[PathCount(*each) for each in times["paths"].items()][:paths],
        percentiles_us={
            str(percent): _percentile(times["buckets"], percent, totals["max_us"])
            for percent in PERCENTILES
        },
        max_us=totals["max_us"],
        is_partial=totals["requests"] > SUMMARY_MAX,
    )


def _percentile(buckets: Mapping[float, int], percent: int, max_us: int) -> int:
    """The middle of the bucket that it is in."""
    rank = max(1, round(sum(buckets.values()) * percent / 100))
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return min(round(math.exp((bucket + 0.5) * BUCKET_WIDTH)), max_us)
    return 0
