"""/api/v1/metrics: what was counted, minute by minute."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec

from proxy_engine.api.paging import PAGE_DEFAULT, Limit, Page
from proxy_engine.api.routes import Call, Routes
from proxy_engine.metric_history import TYPE
from proxy_engine.storage import Metric

routes = Routes("metrics", "What was counted, minute by minute, for a week.")

Moment = Annotated[float, msgspec.Meta(ge=0, le=1e11, description="seconds since the epoch")]


class MetricsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    since: Moment = 0.0
    until: Moment | None = None
    limit: Limit = PAGE_DEFAULT


@routes.get("/api/v1/metrics")
async def list_metrics(call: Call, query: MetricsQuery) -> Page[Metric]:
    """The newest values of all counters in this time, oldest of them first.

    The names are those of /api/v1/stats; who is 0 is left out.
    """
    until = time.time() if query.until is None else query.until
    store = call.service.store
    return Page(await store.metrics(TYPE, since=query.since, until=until, limit=query.limit))
