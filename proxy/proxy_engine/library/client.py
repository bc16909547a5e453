"""`proxy_engine.Client`: tunnels from this process.

The agent of the command line, whose tunnels come and go while it runs. All state is one Settings,
as a file could have it, which changes with the tunnels; agent/composed.py does the work.

    new -> connecting -> open <-> not connected -> closed
                 |         `-> failed: the token is no good any more, another run took over
                 `-> failed
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import msgspec

from proxy_engine import logs
from proxy_engine.agent.agent import Watch
from proxy_engine.agent.composed import ComposedAgent
from proxy_engine.control import PublicTunnel
from proxy_engine.errors import (
    ClosedError,
    ConnectError,
    ProxyEngineError,
    RefusedError,
    TunnelError,
    UsageError,
)
from proxy_engine.library.options import ClientEvent, ClientOptions, HttpOptions, PortOptions
from proxy_engine.library.streams import EventSource, EventStream
from proxy_engine.library.tunnel import Tunnel
from proxy_engine.settings.config import from_values
from proxy_engine.settings.tunnel_config import to_tunnels
from proxy_engine.tasks import Tasks, finish

if TYPE_CHECKING:
    from types import TracebackType

    from proxy_engine.apps.serving import ServedApp
    from proxy_engine.settings.config import Settings
    from proxy_engine.settings.tunnel_config import TunnelConfig

CLOSE_TIMEOUT = 2.0  # seconds for the server to take a tunnel away

_log = logs.get("client")


class Client:
    """`async with Client("https://proxy.example.com", token=...) as client:` is connected.

    Args:
        url: of the server, or several: the first that answers.
        token: the device's.
        timeout: seconds to wait for a link, and for the answer to a tunnel; None: for ever.
        grace: seconds that requests under way get at the end.
        options: ClientOptions.
    Raises: UsageError. Entering it: AuthError, ReplacedError, ConnectError.
    Threads: one event loop's. Several clients may share it.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str = "",
        timeout: float | None = 10.0,
        grace: float = 5.0,
        **options: Unpack[ClientOptions],
    ) -> None:
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise UsageError("which server? give a URL")
        self._settings = from_values({"server": urls, "token": token, **options})
        self._timeout = timeout
        self._grace = grace
        self._tunnels: dict[str, Tunnel] = {}  # by name; those that are being opened too
        self._composed: ComposedAgent | None = None
        self._is_connected = False
        self._is_closing = False
        self._error: ConnectError | TunnelError | None = None  # it has failed
        self._last: ConnectError | None = None  # why it is not connected
        self._settled = asyncio.Event()  # the first link serves, or never will
        self._closed = asyncio.Event()
        self._changing = asyncio.Lock()
        self._is_changed = False  # tunnels that the agent does not know of
        self._answered = asyncio.Event()
        self._version = 0  # of the tunnels, the last that the server has answered to
        self._apps: set[ServedApp] = set()
        self._tasks = Tasks()
        self._events: EventSource[ClientEvent] = EventSource()

    # State

    @property
    def is_connected(self) -> bool:
        """Whether a link serves now."""
        return self._is_connected

    @property
    def tunnels(self) -> dict[str, Tunnel]:
        """Those that are open, by name."""
        return {name: each for name, each in self._tunnels.items() if each.url}

    def counters(self) -> dict[str, int]:
        """Of its engine; docs/operations.md says what each means."""
        return self._open().engine.stats()

    def events(self) -> EventStream[ClientEvent]:
        """What happens from now on, to be iterated over; it ends with the client."""
        return self._events.stream()

    async def closed(self) -> None:
        """Wait for its end. Raises what ended it, unless that was close()."""
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    # Life

    async def __aenter__(self) -> Self:
        if self._composed is not None or self._is_closing:
            raise ClosedError("a client is used once; make another")
        self._composed = composed = ComposedAgent(
            self._settings, watch=_ClientWatch(self), is_dynamic=True
        )
        try:
            composed.start()
            await self._connected()
        except BaseException:
            await finish(self._close(0))
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
        """Take the tunnels away, let what is under way finish, and end. Idempotent."""
        await finish(self._close(self._grace))

    async def _connected(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._settled.wait()
        except TimeoutError:
            last, server = self._last, self._settings.server[0]
            raise ConnectError(
                f"no link to {server} in {self._timeout:g} s: {last or 'no answer'}",
                reason=last.reason if last else "timeout",
            ) from last
        if self._error is not None or self._is_closing:
            raise self._error or ClosedError("the client was closed")

    async def _close(self, grace: float) -> None:
        if self._is_closing:
            await self._closed.wait()
            return
        self._is_closing = True
        composed = self._composed
        try:
            if composed is not None:
                if self._is_connected and grace > 0:
                    await composed.drain(grace)
                await asyncio.gather(*map(self._stop_app, set(self._apps)))
                await self._tasks.settle()
                await composed.close()
        finally:
            self._is_connected = False
            for tunnel in list(self._tunnels.values()):
                self._end(tunnel, self._error)
            self._settled.set()
            self._closed.set()
            self._events.close()

    async def _stop_app(self, app: ServedApp | None) -> None:
        if app is None:
            return
        try:
            await app.close()
        except Exception as error:
            _log.exception("an application did not end well", error)
        self._apps.discard(app)

    # Tunnels

    async def http(self, name: str, target: object, **options: Unpack[HttpOptions]) -> Tunnel:
        """Serve a target as this tunnel.

        Args:
            target: "HOST:PORT", "https://HOST:PORT", "unix:/PATH", an aiohttp.web.Application,
                or an ASGI application: it is served for as long as the tunnel is open.
        Raises: UsageError, RefusedError, NameTakenError, TunnelError, ClosedError.
        """
        return await self._serve(name, "http", target, {**options})

    async def tcp(
        self,
        name: str,
        target: str,
        *,
        port: int | None = 0,
        proxy_protocol: bool = False,
        **options: Unpack[PortOptions],
    ) -> Tunnel:
        """... "HOST:PORT" or "unix:/PATH", at a public port; 0: any, None: for who has a token."""
        found = {"port": port, "proxy_protocol": proxy_protocol, **options}
        return await self._serve(name, "tcp", target, found)

    async def udp(
        self, name: str, target: str, *, port: int = 0, **options: Unpack[PortOptions]
    ) -> Tunnel:
        """... "HOST:PORT", at a public port; 0: any."""
        return await self._serve(name, "udp", target, {"port": port, **options})

    async def _serve(self, name: str, kind: str, target: object, options: dict[str, Any]) -> Tunnel:
        self._open()
        if name in self._tunnels:
            raise UsageError(f'this client has a tunnel "{name}" already')
        app: ServedApp | None = None
        place = target
        if not isinstance(target, str):
            from proxy_engine.apps.serving import serve_app

            app = await serve_app(target, name)
            self._apps.add(app)
            place = app.target
        tunnel: Tunnel | None = None
        try:
            self._open()
            config, settings = self._checked({**options, "name": name, "kind": kind,
                                              "target": place})  # fmt: skip
            tunnel = Tunnel(self, config, app)
            self._settings = settings
            self._tunnels[name] = tunnel
            await self._opened(tunnel)
        except BaseException as error:
            await finish(self._give_up(tunnel, app))
            raise error
        return tunnel

    def _checked(self, values: dict[str, Any]) -> tuple[TunnelConfig, Settings]:
        """The tunnel, and the settings with it. Raises UsageError."""
        if values["name"] in self._tunnels:
            raise UsageError(f'this client has a tunnel "{values["name"]}" already')
        old, name = self._settings, values["name"]
        found: dict[str, Any] = {}
        for key in ("target_ca", "target_server_name"):
            if key in values:
                found[key] = {**getattr(old, key), name: values.pop(key)}
        if values.pop("target_insecure", False):
            found["target_insecure"] = (*old.target_insecure, name)
        try:
            [config] = to_tunnels([values])
        except ValueError as error:
            raise UsageError(f'tunnel "{name}": {error}', tunnel=name) from None
        settings = msgspec.structs.replace(old, tunnels=(*old.tunnels, config), **found)
        assert self._composed is not None
        self._composed.check(settings)
        return config, settings

    async def _opened(self, tunnel: Tunnel) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._change()
                await tunnel._settled.wait()
        except TimeoutError:
            raise TunnelError(
                f'tunnel "{tunnel.name}": no answer in {self._timeout:g} s',
                reason="timeout",
                tunnel=tunnel.name,
                fault="network",
                retryable=True,
            ) from self._last
        if tunnel.is_closed:
            raise tunnel._error or ClosedError("the client was closed", tunnel=tunnel.name)

    async def _give_up(self, tunnel: Tunnel | None, app: ServedApp | None) -> None:
        if tunnel is not None and not tunnel.is_closed:
            self._end(tunnel, None)
            if self._is_alive:
                await self._change()
        await self._stop_app(app)

    @property
    def _is_alive(self) -> bool:
        return not self._is_closing and self._error is None

    async def _drop(self, tunnel: Tunnel) -> None:
        """One that the server has ended: it is not asked for again."""
        if self._is_alive:
            await self._change()
        await self._stop_app(tunnel._app)

    async def _change(self) -> None:
        """Let the agent know of the tunnels there are now."""
        composed = self._open()
        self._is_changed = True
        async with self._changing:
            if self._is_changed:  # else somebody did it for us
                self._is_changed = False
                settings = self._settings
                added = [each for each in self._tunnels.values() if not each._version]
                try:
                    await composed.lead(settings)
                    version = composed.serve(settings)
                except RuntimeError:
                    self._open()  # closed meanwhile, and the engine stopped: says so
                    raise
                for tunnel in added:
                    tunnel._version = version

    async def _close_tunnel(self, tunnel: Tunnel) -> None:
        if tunnel.is_closed:
            return
        self._end(tunnel, None)
        await finish(self._take_away(tunnel))

    async def _take_away(self, tunnel: Tunnel) -> None:
        if self._is_alive:
            # The server first, then the target: no visitor comes to a tunnel without one.
            version = self._open().serve(self._settings)
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    while self._is_connected and self._version < version:
                        self._answered.clear()
                        await self._answered.wait()
            except TimeoutError:
                pass
            if self._is_alive:
                async with self._changing:
                    try:
                        await self._open().lead(self._settings)
                    except (RuntimeError, ProxyEngineError):
                        if self._is_alive:  # else it ended meanwhile, and its targets too
                            raise
        await self._stop_app(tunnel._app)

    def _forget(self, tunnel: Tunnel) -> None:
        """The settings without it."""
        if self._tunnels.get(tunnel.name) is not tunnel:
            return
        name, old = tunnel.name, self._settings
        del self._tunnels[name]
        self._settings = msgspec.structs.replace(
            old,
            tunnels=tuple(each for each in old.tunnels if each.name != name),
            target_ca={key: x for key, x in old.target_ca.items() if key != name},
            target_server_name={k: x for k, x in old.target_server_name.items() if k != name},
            target_insecure=tuple(each for each in old.target_insecure if each != name),
        )

    def _end(self, tunnel: Tunnel, error: ProxyEngineError | None) -> None:
        self._forget(tunnel)
        if not tunnel.is_closed:
            was_open = bool(tunnel.url)
            tunnel._end(error)
            if was_open:
                self._events.put(ClientEvent("tunnel_closed", tunnel.name, error))

    def _open(self) -> ComposedAgent:
        if self._error is not None:
            raise self._error
        if self._composed is None:
            raise ClosedError("the client is not started: use `async with`")
        if self._is_closing:
            raise ClosedError("the client is closed")
        return self._composed


class _ClientWatch(Watch):
    """What the agent tells its client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def answered(
        self, version: int, tunnels: list[PublicTunnel], refused: dict[str, RefusedError]
    ) -> None:
        client = self._client
        client._version = max(client._version, version)
        client._last = None
        if not client._is_connected:
            client._is_connected = True
            client._events.put(ClientEvent("connected"))
        for public in tunnels:
            tunnel = client._tunnels.get(public.name)
            if tunnel is not None and self._is_of(tunnel, version) and tunnel._set_public(public):
                client._events.put(ClientEvent("tunnel_opened", public.name))
        for name, error in refused.items():
            tunnel = client._tunnels.get(name)
            if tunnel is not None and self._is_of(tunnel, version):
                self._end(tunnel, error)
        client._settled.set()
        client._answered.set()

    @staticmethod
    def _is_of(tunnel: Tunnel, version: int) -> bool:
        """Whether it is this tunnel, not one of the same name before."""
        return 0 < tunnel._version <= version

    def _end(self, tunnel: Tunnel, error: TunnelError) -> None:
        self._client._end(tunnel, error)
        self._client._tasks.spawn(self._client._drop(tunnel))

    def told(self, code: str, message: str, tunnel: str) -> None:
        found = self._client._tunnels.get(tunnel)
        if found is not None and code == "deleted_tunnel":
            error = TunnelError(message, reason=code, tunnel=tunnel, fault="theirs", retryable=True)
            self._end(found, error)

    def trying(self, error: ConnectError) -> None:
        self._client._last = error

    def lost(self) -> None:
        client = self._client
        if client._is_connected:
            client._is_connected = False
            client._answered.set()
            client._events.put(ClientEvent("disconnected"))

    def ended(self, error: ConnectError | TunnelError) -> None:
        client = self._client
        client._error = error
        client._is_connected = False
        for tunnel in list(client._tunnels.values()):
            client._end(tunnel, error)
        client._events.put(ClientEvent("failed", error=error))
        client._settled.set()
        client._answered.set()
        client._closed.set()
