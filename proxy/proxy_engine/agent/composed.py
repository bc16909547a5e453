"""An agent, composed of settings: engine, links, targets and what TLS needs.

What the command line runs, and what `proxy_engine.Client` is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

import msgspec

from proxy_engine import logs
from proxy_engine.agent.agent import Agent, Watch
from proxy_engine.agent.device_token import DeviceToken
from proxy_engine.agent.reach import Reacher, is_loopback, proxy_for
from proxy_engine.agent.servers import Servers, ServerUrl, parse_server
from proxy_engine.agent.targets import Targets, resolve
from proxy_engine.agent.tunnels import AgentTunnel, tunnels_of
from proxy_engine.runner import EngineRunner, make_engine
from proxy_engine.tls.client import LinkTls, TargetTls
from proxy_engine_core.core import TARGET_PROXY_HEADER, TARGET_TCP, TARGET_UDP

if TYPE_CHECKING:
    from proxy_engine.control import PublicTunnel
    from proxy_engine.settings.config import Settings
    from proxy_engine.settings.tunnel_config import TunnelConfig
    from proxy_engine.values import Address
    from proxy_engine_core.core import Event

_log = logs.get("tls")


class ComposedAgent:
    """From start() to close().

    Args:
        settings: those of `connect`.
        announce: called with the public tunnels each time they change.
        watch, is_dynamic: agent.Agent's.
    Raises: UsageError.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        announce: Callable[[list[PublicTunnel]], None] = lambda public: None,
        watch: Watch | None = None,
        is_dynamic: bool = False,
    ) -> None:
        self.token = DeviceToken(settings)
        self._first_token = self.token.value  # unnamed tunnels keep the names made of it
        self._tls = LinkTls(settings)
        self.settings = settings
        self._made: dict[TunnelConfig, AgentTunnel] = {}
        self.tunnels = self._made_of(settings)
        servers = find_servers(settings, self._tls)
        self.engine = make_engine("agent", settings)
        self._target_tls = TargetTls(settings)
        self._targets = Targets(
            self.engine,
            _addresses(self.tunnels),
            flags=_flags(self.tunnels),
            allowed=settings.allow_target,
            tls=self._target_tls,
        )
        self.agent = Agent(
            self.engine,
            servers=Servers(servers, settings.transport),
            token=self.token,
            targets=self._targets,
            tunnels=[tunnel.spec() for tunnel in self.tunnels],
            reach=Reacher(resolve, proxy=settings.proxy),
            tls=self._tls,
            announce=announce,
            watch=watch,
            is_dynamic=is_dynamic,
            call_later=asyncio.get_running_loop().call_later,
            device=settings.device,
            pool=settings.pool,
            links_max=settings.links,
            is_configurable=settings.allow_remote_config,
        )
        self.on_event: Callable[[Event], None] | None = None  # told of the engine's events, too
        self._runner = EngineRunner(self.engine, self._event)

    def _event(self, event: Event) -> None:
        self.agent.on_event(event)
        if self.on_event is not None:
            self.on_event(event)

    def start(self) -> None:
        self._runner.start()
        self.agent.start()

    def check(self, settings: Settings) -> None:
        """Raises UsageError if these could not be led to and served."""
        self._made_of(settings)
        TargetTls(settings)

    async def lead(self, settings: Settings, leaving: Sequence[AgentTunnel] = ()) -> None:
        """From now on these are the targets; the server is not told yet. Raises UsageError.

        Args:
            leaving: tunnels that keep their targets, unless they have others now.
        """
        tunnels, tls, old_tls = self._made_of(settings), TargetTls(settings), self._target_tls
        self.settings, self.tunnels, self._target_tls = settings, tunnels, tls
        names = {tunnel.name for tunnel in tunnels}
        known = [*tunnels, *(tunnel for tunnel in leaving if tunnel.name not in names)]
        await self._targets.replace(
            _addresses(known),
            _flags(known),
            tls if len(known) == len(tunnels) else lambda: {**old_tls(), **tls()},
            settings.allow_target,
        )

    def serve(self, settings: Settings) -> int:
        """From now on these are the tunnels, as far as the server is concerned: Agent.serve()."""
        return self.agent.serve([each.spec() for each in self._made_of(settings)])

    def register(self, moved: Container[str]) -> None:
        """Tell the server of the tunnels there are now.

        Args:
            moved: names of those that lead elsewhere than when they were last registered.
        """
        specs = [(each.spec(), each.name in moved) for each in self.tunnels]
        self.agent.serve([msgspec.structs.replace(each, moved=has) for each, has in specs])

    def read_files_again(self) -> None:
        """Files that tunnels are made of may be others by now."""
        for config in [each for each in self._made if each.basic_auth_file]:
            del self._made[config]

    def _made_of(self, settings: Settings) -> list[AgentTunnel]:
        """Those that stay as they are stay the same: passwords are hashed once."""
        for gone in self._made.keys() - set(settings.tunnels):
            del self._made[gone]
        return tunnels_of(settings, self._first_token, self._made)

    async def drain(self, grace: float) -> None:
        """Tell the server to send nothing new; what is under way gets this many seconds."""
        self.agent.drain()
        await self._runner.drain(grace)

    async def close(self) -> None:
        await self.agent.close()
        await self._runner.stop()


def find_servers(settings: Settings, tls: LinkTls) -> list[ServerUrl]:
    """Those of the settings, with the ways there checked. Raises UsageError."""
    servers = [parse_server(url) for url in settings.server]
    for server in servers:
        proxy_for(server, settings.proxy)
        if tls(server) is None and not is_loopback(server.host):
            _log.warning(
                "the token and all data go over the network unencrypted", server=server.authority
            )
    return servers


def _addresses(tunnels: list[AgentTunnel]) -> dict[str, Address]:
    return {tunnel.name: tunnel.target for tunnel in tunnels}


def _flags(tunnels: list[AgentTunnel]) -> dict[str, int]:
    """As the engine has them."""
    kinds = {"http": 0, "tcp": TARGET_TCP, "udp": TARGET_UDP}
    return {
        tunnel.name: kinds[tunnel.kind] | (TARGET_PROXY_HEADER if tunnel.has_proxy_header else 0)
        for tunnel in tunnels
    }
