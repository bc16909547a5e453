from __future__ import annotations

from typing import Any

from proxy_engine.storage.metrics import Metric
from proxy_engine.storage.mongo.database import Database
from proxy_engine.storage.mongo.documents import date, plain, seconds


class MongoMetrics(Database):
    async def metric_add(self, metric: Metric) -> None:
        made = {"ts": date(metric.time), "type": metric.type, "values": dict(metric.values)}
        await self._call(self._db.metrics.insert_one(made))

    async def metrics(self, type: str, *, since: float, until: float, limit: int) -> list[Metric]:
        query = {"type": type, "ts": {"$gte": date(since), "$lte": date(until)}}
        cursor = self._db.metrics.find(query, {"_id": 0}).sort("ts", -1).limit(limit)
        return [_metric(item) for item in reversed(await self._call(cursor.to_list(None)))]

    async def metrics_trim(self, before: float) -> None:
        await self._call(self._db.metrics.delete_many({"ts": {"$lt": date(before)}}))


def _metric(found: dict[str, Any]) -> Metric:
    values = {name: plain(value) for name, value in found["values"].items()}
    return Metric(time=seconds(found["ts"]), type=found["type"], values=values)
