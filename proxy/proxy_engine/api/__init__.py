"""The admin listener: health without a token, /api/v1 with an admin token."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aiohttp import web

from proxy_engine.api import health, v1
from proxy_engine.api.context import SERVER, Service
from proxy_engine.api.middleware import admin_only, errors, known_hosts

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Service", "create_app", "start_api"]

SHUTDOWN_TIMEOUT = 2.0  # seconds for answers in flight when the program ends


def create_app(service: Service) -> web.Application:
    routes: Sequence[web.RouteDef] = [*health.ROUTES, *v1.ROUTES]
    app = web.Application(middlewares=[errors, known_hosts, admin_only])
    app[SERVER] = service
    app.add_routes(routes)
    return app


async def start_api(listener: socket.socket, service: Service) -> web.AppRunner:
    runner = web.AppRunner(create_app(service), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner
