"""Probes, without a token: alive, ready for traffic, and why."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

import proxy_engine
from proxy_engine.api.answers import json
from proxy_engine.api.context import SERVER, Service
from proxy_engine.errors import StorageError

STORE_TIMEOUT = 2.0  # seconds; probes usually give up after that


async def livez(request: web.Request) -> web.Response:
    """The event loop turns; more is not needed to be alive."""
    return json({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    status, store_ok = await _status(request.app[SERVER])
    return json({"status": status, "store": store_ok}, 200 if status == "ok" else 503)


async def health(request: web.Request) -> web.Response:
    service = request.app[SERVER]
    status, store_ok = await _status(service)
    body: dict[str, Any] = {
        "status": status,
        "version": proxy_engine.__version__,
        "uptime": round(time.time() - service.started_at, 3),
        "links": len(service.links),
        "store": store_ok,
    }
    return json(body, 200 if status == "ok" else 503)


async def _status(service: Service) -> tuple[str, bool]:
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            await service.store.ping()
        store_ok = not service.request_log.is_failing
    except (StorageError, TimeoutError):
        store_ok = False
    if service.is_draining:
        return "draining", store_ok
    return ("ok" if store_ok else "failing"), store_ok


ROUTES = [
    web.get("/livez", livez),
    web.get("/readyz", readyz),
    web.get("/health", health),
]
