"""All routes, by topic. A new topic is one line here."""

from __future__ import annotations

from proxy_engine.api import (
    audit,
    configuration,
    debug,
    devices,
    events,
    health,
    hooks,
    metrics,
    overview,
    requests,
    stats,
    tokens,
    tunnels,
)
from proxy_engine.api.routes import Route, Routes

TOPICS: tuple[Routes, ...] = (
    devices.routes,
    tokens.routes,
    tunnels.routes,
    requests.routes,
    stats.routes,
    overview.routes,
    audit.routes,
    metrics.routes,
    events.routes,
    configuration.routes,
    hooks.routes,
    debug.routes,
    health.routes,
)
TABLE: tuple[Route, ...] = tuple(route for topic in TOPICS for route in topic)
