"""Settings of `connect` that change while it runs, on SIGHUP.

They are read and checked as a whole first. If anything is wrong, nothing changes and the agent
goes on with the last good ones. Links stay: the server is told the new tunnels on those there
are, and tunnels that did not change notice nothing. What the server then refuses is logged, and
is no reason to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

import msgspec

from proxy_engine import logs
from proxy_engine.errors import ProxyEngineError, UsageError
from proxy_engine.tasks import Tasks

if TYPE_CHECKING:
    from proxy_engine.agent.composed import ComposedAgent
    from proxy_engine.agent.tunnels import AgentTunnel
    from proxy_engine.settings.config import Settings

# Settings that can change.
LIVE = frozenset(
    {
        *("http", "tcp", "udp", "tunnels", "domains", "allow", "deny", "profile"),
        *("basic_auth", "basic_auth_file", "strip_prefix", "host_header"),
        *("request_header", "response_header", "server_timing", "proxy_protocol"),
        *("target_ca", "target_server_name", "target_insecure"),
        *("allow_target", "allow_remote_config", "grace", "log_format", "log_level"),
    }
)
# ... and those that need another run. The rest is of other verbs.
RESTART = frozenset(
    {
        *("server", "proxy", "token", "token_file", "device", "transport", "links", "pool"),
        *("ca", "crl", "pin", "server_name", "cert", "key", "tls_min_version"),
        *("workers", "engine", "debug", "watchdog"),
        *("agent_admin", "agent_admin_token", "agent_admin_token_file"),
    }
)
LEAVE_SECONDS = 2.0  # that the target of a tunnel that went is kept: visitors are on their way

_log = logs.get("agent")


def check_services(settings: Settings) -> None:
    """Raises UsageError for an agent that has nothing to do."""
    if not (settings.http or settings.tcp or settings.udp or settings.tunnels):
        raise UsageError(
            "which services? give --http NAME=HOST:PORT, --tcp PORT=HOST:PORT or --udp ..."
        )


class Reloader:
    """
    Args:
        load: reads the settings anew. Raises UsageError.
    """

    def __init__(self, agent: ComposedAgent, load: Callable[[], Settings]) -> None:
        self._agent = agent
        self._load = load
        self._tasks = Tasks()
        self._changing = asyncio.Lock()

    def reload(self) -> None:
        """In the background; whoever asked for it reads the log."""
        self._tasks.spawn(self._reload())

    async def close(self) -> None:
        await self._tasks.close()

    async def _reload(self) -> None:
        async with self._changing:
            try:
                await self._take(self._load())
            except ProxyEngineError as error:
                _log.error("settings not reloaded, the last good ones stay", error=error)

    async def _take(self, settings: Settings) -> None:
        agent, old = self._agent, self._agent.settings
        check_services(settings)
        different = [
            key for key in sorted(LIVE | RESTART) if getattr(settings, key) != getattr(old, key)
        ]
        changed = [key for key in different if key in LIVE]
        new = msgspec.structs.replace(old, **{key: getattr(settings, key) for key in changed})
        agent.read_files_again()
        agent.check(new)
        agent.token.renew()
        before = agent.tunnels
        logs.adjust(new.log_format, new.log_level)
        agent.agent.is_configurable = new.allow_remote_config
        await agent.lead(new, leaving=before)
        moved = _moved(before, agent.tunnels, changed)
        if moved or [each.spec() for each in agent.tunnels] != [each.spec() for each in before]:
            agent.register(moved)
        if {each.name for each in before} - {each.name for each in agent.tunnels}:
            self._tasks.spawn(self._leave())
        _log.info(
            "settings reloaded", changed=",".join(changed) or "nothing", tunnels=len(agent.tunnels)
        )
        waiting = [key for key in different if key in RESTART]
        if waiting:
            _log.warning("settings wait for a restart", settings=",".join(waiting))

    async def _leave(self) -> None:
        await asyncio.sleep(LEAVE_SECONDS)
        async with self._changing:
            await self._agent.lead(self._agent.settings)


def _moved(
    before: Iterable[AgentTunnel], now: Iterable[AgentTunnel], changed: Container[str]
) -> set[str]:
    """Names of tunnels whose connections to a target are not to be used any more."""
    places = {each.name: _place(each) for each in before}
    found = {each.name for each in now if places.get(each.name, _place(each)) != _place(each)}
    if "allow_target" in changed:
        found |= {*places}
    if any(key in changed for key in ("target_ca", "target_server_name", "target_insecure")):
        found |= {each.name for each in now if each.is_tls}
    return found


def _place(tunnel: AgentTunnel) -> tuple[object, ...]:
    return tunnel.kind, tunnel.target, tunnel.is_tls, tunnel.has_proxy_header
