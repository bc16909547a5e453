"""What handlers know of the server and of who asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy_engine.cache import AccessCache
    from proxy_engine.diagnosis.service import Diagnosis
    from proxy_engine.links.links import Links
    from proxy_engine.links.login_guard import LoginGuard
    from proxy_engine.live_events import LiveEvents
    from proxy_engine.metrics.collect import Exporter
    from proxy_engine.otlp.service import Otlp
    from proxy_engine.reload import Reloaded
    from proxy_engine.requests.access_log import AccessLog
    from proxy_engine.requests.log import RequestLog
    from proxy_engine.requests.under_way import OpenRequests
    from proxy_engine.server_hooks import ServerHooks
    from proxy_engine.settings.config import Settings
    from proxy_engine.storage import Store, Token
    from proxy_engine.tls.keeper import TlsKeeper
    from proxy_engine.tunnels.routes import TunnelTable
    from proxy_engine_core.core import Engine


class Service(Protocol):
    """The part of app.Server that the API uses."""

    settings: Settings
    sources: dict[str, str]
    started_at: float
    is_draining: bool
    store: Store
    cache: AccessCache
    guard: LoginGuard
    hooks: ServerHooks
    engine: Engine
    tls: TlsKeeper
    links: Links
    table: TunnelTable
    request_log: RequestLog
    open_requests: OpenRequests | None  # None: there is no engine
    exporter: Exporter | None  # the same
    events: LiveEvents
    otlp: Otlp
    access_log: AccessLog
    diagnosis: Diagnosis

    @property
    def uptime(self) -> float: ...

    async def access_changed(self) -> None:
        """Tokens or devices were written: links that are not allowed any more end now."""

    def reload(self) -> Reloaded: ...


@dataclass
class Call:
    """One request to the API, beside what is in its path, query and body."""

    service: Service
    actor: Token | None  # the admin token it came with; None on public routes
    peer: str  # address, without port
    headers: Mapping[str, str]  # of the request, by name in lower case
    status: int = 0  # of the answer; 0: what the route says
    answer_headers: dict[str, str] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    @property
    def actor_name(self) -> str:
        """For records of who did what."""
        return "local" if self.actor is None else self.actor.name
