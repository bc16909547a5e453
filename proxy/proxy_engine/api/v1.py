"""/api/v1: what the server knows, read only. Needs an admin token (see middleware)."""

from __future__ import annotations

from aiohttp import web

from proxy_engine.api.answers import json, problem
from proxy_engine.api.context import SERVER

REQUESTS_DEFAULT = 100
REQUESTS_MAX = 1000


async def stats(request: web.Request) -> web.Response:
    service = request.app[SERVER]
    log = service.request_log
    return json(
        {
            **service.engine.stats(),
            "request_log_written": log.written,
            "request_log_dropped": log.dropped,
        }
    )


async def devices(request: web.Request) -> web.Response:
    service = request.app[SERVER]
    items = [
        {
            "id": device.id,
            "name": device.name,
            "created_at": device.created_at,
            "last_seen_at": device.last_seen_at,
            "is_blocked": device.is_blocked,
            "links": [
                {
                    "id": link.id,
                    "number": link.number,
                    "worker": link.worker,
                    "peer": link.peer,
                    "since": link.since,
                    "agent": link.agent,
                    "platform": link.platform,
                    "token": link.token,
                }
                for link in service.links.of_device(device.id)
            ],
        }
        for device in await service.store.devices()
    ]
    return json({"devices": items})


async def tunnels(request: web.Request) -> web.Response:
    service = request.app[SERVER]
    names = {device.id: device.name for device in await service.store.devices()}
    items = [
        {
            "id": tunnel.id,
            "name": tunnel.name,
            "kind": tunnel.kind,
            "url": service.table.url(tunnel),
            "device": names.get(tunnel.device_id),
            "is_online": bool(service.table.links(tunnel)),
            "created_at": tunnel.created_at,
        }
        for tunnel in await service.store.tunnels()
    ]
    return json({"tunnels": items})


async def requests(request: web.Request) -> web.Response:
    text = request.query.get("limit", str(REQUESTS_DEFAULT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= REQUESTS_MAX):
        return problem(400, "bad_limit", f"limit must be 1..{REQUESTS_MAX}")
    return json({"requests": await request.app[SERVER].store.requests_last(int(text))})


ROUTES = [
    web.get("/api/v1/stats", stats),
    web.get("/api/v1/devices", devices),
    web.get("/api/v1/tunnels", tunnels),
    web.get("/api/v1/requests", requests),
]
