"""A tunnel of a client of this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

    from proxy_engine.apps.serving import ServedApp
    from proxy_engine.control import PublicTunnel
    from proxy_engine.errors import ProxyEngineError
    from proxy_engine.settings.tunnel_config import TunnelConfig


class Owner(Protocol):
    @property
    def is_connected(self) -> bool: ...
    async def _close_tunnel(self, tunnel: Tunnel) -> None: ...


class Tunnel:
    """Made by Client.http(), tcp() and udp(); `async with` closes it at its end."""

    def __init__(self, owner: Owner, config: TunnelConfig, app: ServedApp | None) -> None:
        self._owner = owner
        self._config = config
        self._app = app
        self._version = 0  # of the client's tunnels, the first that has this one; 0: not yet
        self._public: PublicTunnel | None = None
        self._error: ProxyEngineError | None = None
        self._settled = asyncio.Event()  # it is open, or never will be
        self._closed = asyncio.Event()

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def kind(self) -> str:
        """ "http", "tcp" or "udp"."""
        return self._config.kind

    @property
    def target(self) -> str:
        """Where it leads: HOST:PORT, https://HOST:PORT or unix:/PATH."""
        return self._config.target

    @property
    def url(self) -> str:
        """Where visitors find it. Of a private TCP tunnel: what `proxy-engine forward` is told."""
        return "" if self._public is None else self._public.url

    @property
    def urls(self) -> list[str]:
        """The same, and those of its own domains."""
        return [] if self._public is None else [self._public.url, *self._public.domains]

    @property
    def port(self) -> int | None:
        """The public port of a TCP or UDP tunnel; None: it has none."""
        return urlsplit(self.url).port if self.kind != "http" else None

    @property
    def is_online(self) -> bool:
        """Whether visitors get through now: a link serves it, and no operator has disabled it."""
        public = self._public
        is_open = not self._closed.is_set() and self._owner.is_connected
        return is_open and public is not None and not public.disabled

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def closed(self) -> None:
        """Wait for its end. Raises what ended it, unless that was close()."""
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Take it from the server, and let its application shut down, if it has one. Requests
        under way go on as long as the client does. Idempotent."""
        await self._owner._close_tunnel(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "online" if self.is_online else "offline"
        return f"<Tunnel {self.name} {self.url} -> {self.target}, {state}>"

    # For the client

    def _set_public(self, public: PublicTunnel) -> bool:
        """Whether it was not open before."""
        is_new = self._public is None
        self._public = public
        self._settled.set()
        return is_new

    def _end(self, error: ProxyEngineError | None) -> None:
        self._error = error
        self._settled.set()
        self._closed.set()
