"""/api/v1/stats: what is counted."""

from __future__ import annotations

from proxy_engine.api.routes import Call, Routes

routes = Routes("stats", "What is counted.")


@routes.get("/api/v1/stats")
async def read_stats(call: Call) -> dict[str, int]:
    """Counters and gauges of the engine, the request log and logins.

    What each means is said in docs/operations.md. They begin at 0 when the server starts.
    """
    log, guard, cache = call.service.request_log, call.service.guard, call.service.cache
    return {
        **call.service.engine.stats(),
        "request_log_written": log.written,
        "request_log_dropped": log.dropped,
        "logins_failed": guard.failed,
        "logins_limited": guard.limited,
        "token_cache_hits": cache.hits,
        "token_cache_misses": cache.misses,
    }
