"""What handlers know of the server, and how they find it."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from proxy_engine.config import Settings
from proxy_engine.links import Links
from proxy_engine.request_log import RequestLog
from proxy_engine.storage import Store
from proxy_engine.tunnels import TunnelTable
from proxy_engine_core.core import Engine


class Service(Protocol):
    """The part of app.Server that the API reads."""

    settings: Settings
    started_at: float
    is_draining: bool
    store: Store
    engine: Engine
    links: Links
    table: TunnelTable
    request_log: RequestLog


SERVER: web.AppKey[Service] = web.AppKey("server", Service)
