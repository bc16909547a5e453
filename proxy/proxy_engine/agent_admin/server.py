"""The agent's own listener: /livez, /readyz, /health, /metrics and, with `debug`, /debug/.

Off unless `agent_admin` is set. Answers are those of a server's admin listener where both have
them. On the loopback it asks for nothing; elsewhere a token is needed, for all but the probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from aiohttp import web

import proxy_engine
from proxy_engine import listeners, logs
from proxy_engine.agent.reach import is_loopback
from proxy_engine.agent_admin import metrics
from proxy_engine.agent_admin.problems import NO_STORE, problem, problems, query
from proxy_engine.diagnosis.cpu import CpuProfile
from proxy_engine.diagnosis.service import Diagnosis
from proxy_engine.diagnosis.stacks import all_stacks
from proxy_engine.diagnosis.watch import WatchState
from proxy_engine.errors import UsageError
from proxy_engine.metrics.text import media_type
from proxy_engine.settings.config import secret
from proxy_engine.values import Address, is_own_host

if TYPE_CHECKING:
    from proxy_engine.agent.composed import ComposedAgent
    from proxy_engine.settings.config import Settings

PROBES = ("/livez", "/readyz", "/health")
SHUTDOWN_TIMEOUT = 1.0  # seconds for answers under way when the agent ends

_log = logs.get("admin")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProfileQuery(msgspec.Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, msgspec.Meta(ge=0.1, le=300)] = 10.0
    rate: Annotated[int, msgspec.Meta(ge=1, le=999)] = 97


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    pass


def admin_token(settings: Settings, address: Address) -> str:
    """What it asks for there; "": nothing. Raises UsageError."""
    token = secret(settings, "agent_admin_token")
    if not token and not is_loopback(address.host):
        raise UsageError(
            f"agent_admin: others can reach {address}: give "
            "agent_admin_token_file, or an address of the loopback"
        )
    return token


class AgentAdmin:
    """Raises UsageError for an address that others can reach, without a token."""

    def __init__(self, agent: ComposedAgent) -> None:
        settings = agent.settings
        assert settings.agent_admin is not None
        self._agent = agent
        self._token = admin_token(settings, settings.agent_admin)
        self._started_at = time.time()
        self._started = time.monotonic()  # no clock that is set makes it younger
        self._diagnosis = Diagnosis(
            agent.engine,
            settings,
            tunnels=dict,
            devices=dict,
        )
        agent.on_event = self._diagnosis.on_event

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises ListenError."""
        address = self._agent.settings.agent_admin
        assert address is not None
        listener = listeners.bind_admin(address)
        host, port = listener.getsockname()[:2]
        app = web.Application(middlewares=[problems, self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        if self._agent.settings.debug:
            app.router.add_get("/debug/profile", self._profile)
            app.router.add_get("/debug/stacks", self._stacks)
            app.router.add_get("/debug/slow", self._slow)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
        try:
            await runner.setup()
            await web.SockSite(runner, listener).start()
            self._diagnosis.watch.start()
            _log.info("listening", admin=Address(host, port), debug=self._agent.settings.debug)
            yield
        finally:
            self._diagnosis.stop()
            await runner.cleanup()
            listener.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path in PROBES:
            return await handler(request)
        if self._token:
            kind, _, given = request.headers.get("Authorization", "").partition(" ")
            is_it = hmac.compare_digest(given.strip().encode(), self._token.encode())
            if kind.lower() != "bearer" or not is_it:
                detail = "send Authorization: Bearer TOKEN"
                return problem(401, "no_token", detail, **{"WWW-Authenticate": "Bearer"})
        elif not is_own_host(request.host):  # a page may point its own name at 127.0.0.1
            return problem(421, "unknown_host", "ask by address, or as localhost")
        return await handler(request)

    # Probes

    def _status(self) -> Literal["ok", "connecting", "stuck", "draining"]:
        if self._diagnosis.watch.is_stuck:
            return "stuck"
        if self._agent.agent.is_ending:
            return "draining"
        return "ok" if self._agent.agent.links_serving else "connecting"

    async def _livez(self, request: web.Request) -> web.Response:
        is_stuck = self._diagnosis.watch.is_stuck
        return _json({"status": "stuck" if is_stuck else "ok"}, 503 if is_stuck else 200)

    async def _readyz(self, request: web.Request) -> web.Response:
        status = self._status()
        return _json({"status": status}, 200 if status == "ok" else 503)

    async def _health(self, request: web.Request) -> web.Response:
        status, agent = self._status(), self._agent
        answer = {
            "status": status,
            "version": proxy_engine.__version__,
            "uptime": round(time.monotonic() - self._started, 3),
            "server": agent.agent.authority,
            "links": agent.agent.links_serving,
            "tunnels": agent.agent.public,
        }
        return _json(answer, 200 if status == "ok" else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        kind = media_type(request.headers.get("Accept", ""))
        agent = self._agent.agent
        body = metrics.text(
            self._agent.engine,
            links=agent.links_serving,
            tunnels=len(agent.public),
            started_at=self._started_at,
            media_type=kind,
        )
        return web.Response(body=body, headers={"Content-Type": kind})

    # /debug/

    async def _profile(self, request: web.Request) -> web.Response:
        wanted = query(request, ProfileQuery)
        try:
            profile = CpuProfile(self._agent.engine.inspector, wanted.rate)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return problem(409, "profile_under_way", "one profile at a time")
        try:
            await asyncio.sleep(wanted.seconds)
            found = await asyncio.to_thread(profile.finish)
        except RuntimeError:
            return problem(503, "stopping", "the engine has stopped")
        finally:
            profile.stop()
        return web.Response(text=found.folded(), headers={"X-Samples-Lost": str(found.lost)})

    async def _stacks(self, request: web.Request) -> web.Response:
        query(request, NoQuery)
        watch, workers = self._diagnosis.watch, self._agent.engine.workers
        return _json({"threads": await asyncio.to_thread(all_stacks, watch, workers)})

    async def _slow(self, request: web.Request) -> web.Response:
        query(request, NoQuery)
        watch = self._diagnosis.watch
        return _json(
            WatchState(
                slow_ms=self._diagnosis.slow_ms,
                slow_seen=watch.slow_seen,
                slow=list(watch.slow),
                stuck=list(watch.stuck.values()),
                status="stuck" if watch.is_stuck else "ok",
            )
        )


def _json(found: Any, status: int = 200) -> web.Response:
    headers = {"Content-Type": "application/json", **NO_STORE}
    return web.Response(status=status, body=msgspec.json.encode(found) + b"\n", headers=headers)
