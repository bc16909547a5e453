"""The server, composed: engine, store, links, request log and the admin API.

Ports are bound before anything is written to disk, so a server that can not start leaves
nothing behind. Shutting down is the reverse: the engine drains while the API still
answers, then the logs are flushed, then the store is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

from proxy_engine import failures, listeners, logs, tokens
from proxy_engine.audit import SIGNAL, audited
from proxy_engine.cache import AccessCache
from proxy_engine.diagnosis.service import Diagnosis
from proxy_engine.engine_feed import EngineFeed
from proxy_engine.errors import ProxyEngineError
from proxy_engine.failure_feed import FailureFeed
from proxy_engine.links.access_watch import AccessWatch
from proxy_engine.links.links import Links
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.live_events import LiveEvents
from proxy_engine.metric_history import MetricHistory
from proxy_engine.metrics.store import measured
from proxy_engine.otlp import service as otlp
from proxy_engine.requests.access_log import AccessLog
from proxy_engine.requests.journal import journal_of
from proxy_engine.requests.log import RequestLog, retention
from proxy_engine.requests.redaction import Redactor
from proxy_engine.requests.under_way import OpenRequests
from proxy_engine.runner import EngineRunner, make_engine
from proxy_engine.server_hooks import ServerHooks
from proxy_engine.settings import config
from proxy_engine.settings.config import Loaded, Settings
from proxy_engine.storage import Store
from proxy_engine.storage.opening import open_store
from proxy_engine.tasks import Tasks, every, finish
from proxy_engine.tls.admin import admin_context, refresh
from proxy_engine.tls.keeper import TlsKeeper
from proxy_engine.tunnels.ports import Ports
from proxy_engine.tunnels.routes import TunnelTable
from proxy_engine.values import Address, Listen

if TYPE_CHECKING:
    from types import TracebackType

    from proxy_engine.cache.shared import SharedCache
    from proxy_engine.hooks import Hook
    from proxy_engine.metrics.collect import Exporter
    from proxy_engine.reload import Reloaded
    from proxy_engine_core.core import Engine, TlsServer

TLS_LOOK = 2.0  # seconds between looks at the files of certificates
TICK = 0.5  # seconds between looks for tokens revoked or expired: links end within a second

NOT_RELOADED = "settings not reloaded, the last good ones stay"

_log = logs.get("server")


class Server:
    """`async with Server(settings) as server:` is a running server."""

    def __init__(
        self,
        settings: Settings,
        *,
        sources: Mapping[str, str] | None = None,
        load: Callable[[], Loaded] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        """Args:
        sources: where the settings came from: config.Loaded.
        load: reads the settings anew, for reload(); by default there is nothing to read.
        hooks: beside those of the settings, and before them.
        """
        self.settings = settings
        self.sources = dict(sources or {})
        self._load = load or (lambda: Loaded(settings, self.sources))
        self.started_at = time.time()
        self._started = time.monotonic()
        self.first_run: tokens.FirstRun | None = None
        self.is_draining = False
        self._given_hooks = tuple(hooks)
        self.failures = FailureFeed()
        self.hooks: ServerHooks
        self.ports: Ports
        self.redactors: list[Redactor] = []
        self.store: Store
        self.engine: Engine
        self.cache: AccessCache
        self.watch: AccessWatch
        self.guard: LoginGuard
        self.links: Links
        self.table: TunnelTable
        self.request_log: RequestLog
        self.access_log: AccessLog
        self.open_requests: OpenRequests | None = None
        self.exporter: Exporter | None = None
        self.otlp = otlp.Otlp()
        self.events: LiveEvents
        self.diagnosis: Diagnosis
        self.tls: TlsKeeper
        self.listeners: list[Listen]  # as bound
        self.admin: Address
        self._runner: EngineRunner
        self._tasks = Tasks()
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            with self.failures.heard():
                await self._start()
        except BaseException:
            await finish(self._exit.aclose())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.failures.heard():
            await finish(self._exit.aclose())

    @property
    def uptime(self) -> float:
        """Seconds since it was made, whatever the clock was set to meanwhile."""
        return time.monotonic() - self._started

    @property
    def url(self) -> str:
        """Where agents and visitors find this server."""
        return listeners.origin(
            listeners.public(self.listeners).scheme, self.settings.domain, self.address.port
        )

    @property
    def address(self) -> Address:
        """Where visitors and agents find it on this machine."""
        return listeners.public(self.listeners).address

    async def _start(self) -> None:
        from proxy_engine.api.server import start_api
        from proxy_engine.api.stats import all_stats, exporter_of

        settings, feed = self.settings, EngineFeed(self)
        otlp.check(settings)
        self.hooks = ServerHooks(settings, self._given_hooks, self._redactor())
        self.failures.hooks = self.hooks.manager
        self.engine = make_engine("server", settings)
        # Until the runner takes over; stop() is idempotent.
        self._exit.callback(self.engine.stop)
        self.tls = TlsKeeper(settings)
        self.listeners = [
            listeners.listen(self.engine, each, self.tls.tls if each.scheme == "https" else None)
            for each in listeners.chosen(settings)
        ]
        self.tls.apply = self._apply_tls
        public = listeners.public(self.listeners)
        if settings.https_redirect:
            self.engine.redirect(public.address.port)
        admin_socket = listeners.bind_admin(settings.admin)
        self._exit.callback(admin_socket.close)
        host, port = admin_socket.getsockname()[:2]
        self.admin = Address(host, port)

        self.store = measured(await open_store(settings))
        self._exit.push_async_callback(self.store.close)
        self._exit.push_async_callback(self._tasks.close)
        self.first_run = await tokens.create_first(self.store)
        self.request_log = RequestLog(
            self.store,
            keep=retention(settings),
            journal=journal_of(settings),
            sample=settings.request_sample,
            redactor=self._redactor(),
        )
        await self.request_log.start()
        self._exit.push_async_callback(self.request_log.close)

        self.table = TunnelTable(
            domain=settings.domain,
            port=public.address.port,
            scheme=public.scheme,
            default_tunnel=settings.default_tunnel,
            default_profile=settings.default_profile,
            default_timing=settings.default_server_timing,
            notify=feed.tunnel,
            closed=self.hooks.feed.tunnel_closed,
        )
        tunnels = await self.store.tunnels()
        self.hooks.feed.watch(self.table, feed.device_name)
        self.engine.routes_apply(self.table.load(tunnels))
        self.events = LiveEvents(
            redact=self._redactor(),
            tunnel_name=feed.tunnel_name,
            device_name=feed.device_name,
        )
        self.access_log = AccessLog(
            redact=self._redactor(),
            tunnel_name=feed.tunnel_name,
            device_name=feed.device_name,
        )
        self.guard = LoginGuard(settings.login_failures)
        self.cache = AccessCache(self.store, await self._shared_cache())
        self.watch = AccessWatch(self.store, self.cache)
        self._exit.push_async_callback(self.watch.close)
        self.open_requests = OpenRequests(
            self.engine,
            tunnels=feed.tunnel_names,
            devices=feed.device_names,
            redact=self._redactor(),
        )
        self.diagnosis = Diagnosis(
            self.engine,
            settings,
            tunnels=feed.tunnel_names,
            devices=feed.device_names,
        )
        self.ports = Ports(
            self.engine,
            self.table,
            host=public.address.host,
            ranges=settings.tcp_ports,
            reserved=(*(each.address.port for each in self.listeners), self.admin.port),
        )
        self._exit.push_async_callback(self.hooks.close)
        self._exit.callback(self.failures.close)
        await self.hooks.start(url=self.url, admin=str(self.admin), domain=settings.domain)
        self.links = Links(
            self.engine,
            self.store,
            self.table,
            links_max=settings.links_per_agent,
            ports=self.ports,
            pool=settings.pool,
            busy_share=settings.link_busy_share,
            cache=self.cache,
            guard=self.guard,
            hooks=self.hooks.manager,
            notify=self.hooks.feed.device,
            needs_certificate=lambda: self.settings.tls_client_required != "no",
        )
        await self.watch.start(self.links)
        self.exporter = exporter_of(self)
        admin_tls = admin_context(settings)
        if admin_tls is not None:
            self.tls.apply_admin = partial(refresh, admin_tls)
        api = await start_api(admin_socket, self, admin_tls)
        self._exit.push_async_callback(api.cleanup)
        self._exit.push_async_callback(self.links.close)
        self._exit.push_async_callback(self.otlp.close)
        await self.otlp.start(
            settings,
            exporter=self.exporter,
            redact=self._redactor(),
            tunnel_name=feed.tunnel_name,
            device_name=feed.device_name,
            scheme=public.scheme,
            started_at=self.started_at,
        )
        self._runner = EngineRunner(self.engine, feed.event, feed.logs)
        self._runner.start()
        self.hooks.watch(self.engine)
        self._exit.push_async_callback(self._runner.stop)
        self._exit.push_async_callback(self.otlp.finish_metrics)
        self.diagnosis.watch.start()
        self._exit.callback(self.diagnosis.stop)
        for work, where in ((self._look, "look"), (self.links.registry.write, "devices")):
            ticker = asyncio.create_task(every(TICK, work, where), name=work.__name__)
            self._exit.callback(ticker.cancel)
        certificates = asyncio.create_task(every(TLS_LOOK, self.tls.look))
        self._exit.callback(certificates.cancel)
        history = MetricHistory(self.store, lambda: all_stats(self))
        keeper = asyncio.create_task(history.run(), name="metric-history")
        self._exit.callback(keeper.cancel)
        _log.info(
            "listening",
            listen=",".join(map(listeners.shown, self.listeners)),
            admin=self.admin,
            domain=settings.domain,
            data_dir=settings.data_dir,
            tunnels=len(self.table),
        )

    def _apply_tls(self, tls: TlsServer) -> None:
        for each in self.listeners:
            if each.scheme == "https":
                self.engine.tls_apply(each.address.port, tls)

    async def access_changed(self) -> None:
        """Tokens or devices were written: nothing that was known of them counts any more."""
        await self.watch.changed()

    def reload(self) -> Reloaded:
        """Read the settings again and take over what can change.

        Raises: UsageError if anything in them is wrong; then nothing has changed.
        """
        from proxy_engine import reload

        loaded = self._load()
        reload.check(loaded.settings)
        done = reload.apply(self, loaded.settings)
        waiting = set(done.needs_restart)
        self.sources = {
            key: source
            for sources, is_wanted in ((self.sources, True), (loaded.sources, False))
            for key, source in sources.items()
            if (key in waiting) == is_wanted
        }
        _log.info("settings reloaded", changed=",".join(done.changed) or "nothing")
        if waiting:
            _log.warning("settings wait for a restart", settings=",".join(done.needs_restart))
        return done

    def reload_or_log(self) -> None:
        """The same for SIGHUP, in the background: whoever sent it reads the log."""
        with self.failures.heard():
            self._tasks.spawn(self._reload_for_signal())

    async def _reload_for_signal(self) -> None:
        record = {"actor": SIGNAL, "address": "", "action": "reload_config", "subject": ""}
        try:
            async with audited(self.store, **record):
                self.reload()
        except ProxyEngineError as error:
            failures.error(_log, "settings", "reload", NOT_RELOADED, error=error)

    async def drain(self, grace: float) -> None:
        """Refuse new work, let what is in flight finish for at most `grace` seconds."""
        self.is_draining = True
        _log.info("draining", grace=grace, links=len(self.links))
        self.links.drain()
        with self.failures.heard():
            await self._runner.drain(grace)

    def _redactor(self) -> Redactor:
        """One for each user: they work in threads of their own. reload() knows all of them."""
        self.redactors.append(Redactor(self.settings.request_redact))
        return self.redactors[-1]

    async def _shared_cache(self) -> SharedCache | None:
        settings = self.settings
        url = config.secret(settings, "redis_url")
        if not url:
            return None
        from proxy_engine.cache.shared import SharedCache

        shared = SharedCache(
            url,
            config.secret(settings, "redis_password"),
            await self.store.shared_key(),
            guard=self.guard,
            on_change=lambda: self.watch.hint(),
            on_gap=lambda: self.watch.gap(),
        )
        self._exit.push_async_callback(shared.close)
        shared.start()
        return shared

    async def _look(self) -> None:
        """For links that are not allowed any more, by the clock or by others."""
        self.links.tick()
        await self.watch.look()
