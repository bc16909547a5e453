"""`proxy_engine.Server`: a server in this process.

app.Server with what a program needs around it: settings as they come, a data folder of its own
if it is given none, and words for what the admin API does, without HTTP.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import msgspec

from proxy_engine import app, grants, listeners, live_events, tokens
from proxy_engine.api import server as _  # noqa: F401  imported now, not by the first start
from proxy_engine.api.stats import all_stats
from proxy_engine.errors import ClosedError, UsageError
from proxy_engine.live_events import Event, Topic
from proxy_engine.settings.config import Settings, from_values
from proxy_engine.storage import NameTaken
from proxy_engine.tasks import finish
from proxy_engine.values import Address, parse_duration

if TYPE_CHECKING:
    from types import TracebackType

    from proxy_engine.hooks import Hook

# Unless said otherwise nothing is open to others, and nothing collides.
EMBEDDED = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}

_event = msgspec.json.Decoder(Event)


class TunnelInfo(NamedTuple):
    """A tunnel as the server knows it."""

    name: str
    kind: str  # "http", "tcp" or "udp"
    url: str
    device: str  # that serves it now; "": it is offline
    is_online: bool


class Server:
    """`async with Server(domain="proxy.example.com") as server:` is a running server.

    Args:
        config: Settings, or settings by name, as in the file. Without any it listens on free
            ports of the loopback.
        settings: more of them, which count first. Without `data_dir` it has a temporary folder,
            which is gone at the end.
        hooks: objects, or names as in the setting of this name (docs/hooks.md).
        grace: seconds that requests under way get at the end.
    Raises: UsageError. Entering it: ListenError, StorageError, HookError, ProxyEngineError.
    Threads: one event loop's. Several servers may share it.
    """

    def __init__(
        self,
        config: Settings | Mapping[str, Any] | None = None,
        *,
        grace: float = 0.0,
        hooks: Sequence[Hook | str] = (),
        **settings: Any,
    ) -> None:
        names = [hook for hook in hooks if isinstance(hook, str)]
        if names:
            settings["hooks"] = names
        self._hooks = [hook for hook in hooks if not isinstance(hook, str)]
        if isinstance(config, Settings):
            self._settings = from_values(settings, config)
        else:
            self._settings = from_values({**EMBEDDED, **(config or {}), **settings})
        self._grace = grace
        self._exit = contextlib.AsyncExitStack()
        self._app: app.Server | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        if self._app is not None or self._is_closed:
            raise ClosedError("a server is used once; make another")
        try:
            settings = self._settings
            if settings.data_dir == Path():
                folder = tempfile.TemporaryDirectory(prefix="proxy-engine-")
                self._exit.callback(folder.cleanup)
                settings = msgspec.structs.replace(settings, data_dir=Path(folder.name))
            self._app = app.Server(settings, hooks=self._hooks)
            await self._exit.enter_async_context(self._app)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await finish(self._close(self._grace if error is None else 0))

    async def close(self) -> None:
        """End it at once. Idempotent."""
        await finish(self._close(0))

    async def drain(self, grace: float) -> None:
        """Refuse new work, and let what is under way finish for at most so many seconds."""
        await self._running().drain(grace)

    async def _close(self, grace: float) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if grace and self._app is not None:
                await self._app.drain(grace)
        finally:
            await self._exit.aclose()

    def _started(self) -> app.Server:
        if self._app is None:
            raise ClosedError("the server is not started: use `async with`")
        return self._app

    def _running(self) -> app.Server:
        if self._is_closed:
            raise ClosedError("the server is closed")
        return self._started()

    # What it is

    @property
    def settings(self) -> Settings:
        return self._settings if self._app is None else self._app.settings

    @property
    def url(self) -> str:
        """Where agents and visitors find it, by its domain: a Client's url."""
        return self._started().url

    @property
    def local_url(self) -> str:
        """The same for a Client of this machine, where the domain may lead elsewhere."""
        server = self._started()
        host, port = server.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        scheme = listeners.public(server.listeners).scheme
        return f"{scheme}://{Address(host, port)}"

    @property
    def address(self) -> Address:
        """(host, port) on this machine."""
        return self._started().address

    @property
    def http_port(self) -> int:
        """Of visitors and agents: of the first listener, or the first with TLS."""
        return self.address.port

    @property
    def admin_url(self) -> str:
        """Of the API, /metrics and the rest of the admin listener."""
        server = self._started()
        scheme = "https" if server.settings.admin_tls_cert else "http"
        return listeners.origin(scheme, server.admin.host, server.admin.port)

    @property
    def tunnels(self) -> dict[str, TunnelInfo]:
        """All it knows, by name."""
        server = self._running()
        found = {}
        for tunnel in server.table:
            links = [server.links.get(link) for link in server.table.links(tunnel)]
            device = next((link.device for link in reversed(links) if link is not None), "")
            found[tunnel.name] = TunnelInfo(
                tunnel.name, tunnel.kind, server.table.url(tunnel, device), device, bool(device)
            )
        return found

    @property
    def devices(self) -> list[str]:
        """Those that are connected, by name."""
        return sorted({link.device for link in self._running().links})

    def counters(self) -> dict[str, int]:
        """Of the engine and what is around it; docs/operations.md says what each means."""
        return all_stats(self._running())

    async def events(self, *topics: Topic) -> AsyncIterator[Event]:
        """What happens from the first step on: requests that ended, devices that come and go,
        tunnels, metrics; without topics all but the last. Nobody waits for who is slow: then a
        DroppedEvent tells how many were missed."""
        chosen = topics or ("requests", "devices", "tunnels")
        for topic in chosen:
            if topic not in live_events.TOPICS:
                raise UsageError(f'"{topic}" is no topic: {", ".join(live_events.TOPICS)}')
        with self._running().events.subscribe(frozenset(chosen)) as subscriber:
            while True:
                for event in await subscriber.get():
                    yield _event.decode(event)

    # Tokens

    @property
    def admin_token(self) -> str:
        """Made with the data folder: "" if that was there before."""
        made = self._started().first_run
        return "" if made is None else made.admin_token

    async def create_token(
        self,
        name: str = "default-device",
        *,
        kind: Literal["device", "admin"] = "device",
        device: str | None = None,
        expires_in: float | str | None = None,
        scopes: Iterable[str] = (),
        limits: Iterable[str] = (),
    ) -> str:
        """Make a token; its secret, for the only time.

        Args:
            name: a unique one.
            device: that it is for; None: of the token's name.
            expires_in: seconds, or "30d".
            scopes, limits: as of `token create`: "tunnel=web-*", "requests=100/s".
        Raises: UsageError, StorageError.
        """
        server = self._running()
        try:
            secret, _ = await tokens.create(
                server.store,
                name=name,
                kind=kind,
                device=device,
                now=time.time(),
                expires_in=None if expires_in is None else parse_duration(expires_in),
                scopes=grants.parse_scopes(scopes),
                limits=grants.parse_limits(limits),
            )
        except NameTaken as error:
            raise UsageError(str(error), reason="name_taken") from None
        except ValueError as error:
            raise UsageError(f"expires_in: {error}") from None
        await server.access_changed()
        return secret

    async def revoke_token(self, name: str) -> bool:
        """Make a token useless, for ever; its links end at once. False: there is no such token."""
        server = self._running()
        if not await server.store.token_revoke(name, time.time()):
            return False
        await server.access_changed()
        return True
