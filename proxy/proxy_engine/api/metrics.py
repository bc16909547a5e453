"""/metrics, for Prometheus; /api/v1/metrics: what was counted, minute by minute."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from proxy_engine.api.paging import PAGE_DEFAULT, Limit, Page
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes, Stream
from proxy_engine.metric_history import TYPE
from proxy_engine.metrics.text import OPEN_METRICS, PLAIN, media_type
from proxy_engine.storage import Metric

routes = Routes("metrics", "What is counted, for Prometheus, and minute by minute for a week.")

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


@routes.get("/metrics", media_types=(PLAIN, OPEN_METRICS), problems={503: "there is no engine"})
async def scrape(call: Call) -> Stream:
    """All metrics, as Prometheus reads them.

    The text format 0.0.4, or OpenMetrics 1.0.0 for whom `Accept` prefers that. Each is described
    in docs/metrics.md. With the setting `metrics_public` no token is asked for.
    """
    exporter = call.service.exporter
    if exporter is None:
        raise Problem(503, "no_engine", "ask the server that runs: --admin URL")
    kind = media_type(call.headers.get("accept", ""))
    return Stream(kind, _whole(await exporter.scrape(kind)))


async def _whole(text: bytes) -> AsyncIterator[bytes]:
    yield text
