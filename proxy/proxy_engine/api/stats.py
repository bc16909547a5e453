"""/api/v1/stats: what is counted."""

from __future__ import annotations

from proxy_engine import logs
from proxy_engine.api.context import Service
from proxy_engine.api.routes import Call, Routes
from proxy_engine.metrics.collect import Exporter

routes = Routes("stats", "What is counted.")


@routes.get("/api/v1/stats")
async def read_stats(call: Call) -> dict[str, int]:
    """Counters and gauges of the engine, the request log, logins and live events.

    What each means is said in docs/counters.md. They begin at 0 when the server starts.
    """
    return all_stats(call.service)


def exporter_of(service: Service) -> Exporter:
    return Exporter(
        service.engine,
        service.store,
        service.table,
        service.links,
        stats=lambda: all_stats(service),
        settings=lambda: service.settings,
        is_draining=lambda: service.is_draining,
        started_at=service.started_at,
    )


def all_stats(service: Service) -> dict[str, int]:
    log, guard, events = service.request_log, service.guard, service.events
    hook = service.hooks.webhook
    return {
        **service.engine.stats(),
        **log.stats(),
        **service.tls.stats(),
        "logins_failed": guard.failed,
        "logins_limited": guard.limited,
        **service.cache.stats(),
        "webhooks_sent": hook.sent,
        "webhook_failures": hook.failed,
        "webhooks_dropped": hook.dropped,
        **service.hooks.manager.stats(),
        "device_events_dropped": service.links.registry.events_dropped,
        "event_subscribers": len(events),
        "events_dropped": events.dropped,
        **service.otlp.stats(),
        "access_lines_dropped": service.access_log.dropped,
        **logs.stats(),
    }
