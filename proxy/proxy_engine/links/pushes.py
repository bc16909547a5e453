"""What the server wants of agents while they run: another target for a tunnel.

A "configure" record goes to the agent, over the newest link that serves the tunnel, and its
"configured" tells whether it is done: that is for who runs the agent to allow. What was wanted
last is told again to every run that registers the tunnel, for it knows only its own settings.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy_engine import control, logs
from proxy_engine.links.table import Link, LinkTable
from proxy_engine.storage import Tunnel
from proxy_engine.tunnels.routes import TunnelTable

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine

ANSWER_TIMEOUT = 10.0  # seconds; the agent may have to look a name up
UNAWAITED = 0  # the id of what is told again: its answer is for the log

_log = logs.get("links")


class NotPushed(Exception):
    """The agent did not do it. code is one of docs/errors.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Pushes:
    def __init__(self, engine: Engine, links: LinkTable, tunnels: TunnelTable) -> None:
        self._engine = engine
        self._links = links
        self._tunnels = tunnels
        self._last = UNAWAITED
        self._awaited: dict[int, tuple[int, asyncio.Future[control.Configured]]] = {}  # with link

    async def set_target(
        self, tunnel: Tunnel, target: str, *, within: float = ANSWER_TIMEOUT
    ) -> None:
        """Have the agent lead this tunnel there, "": where it did at first. Raises NotPushed."""
        link = self._link_of(tunnel)
        self._last += 1
        number = self._last
        future: asyncio.Future[control.Configured] = asyncio.get_running_loop().create_future()
        self._awaited[number] = link.id, future
        try:
            self._send(link, number, tunnel.name, target)
            async with asyncio.timeout(within):
                answer = await future
        except TimeoutError:
            message = f"the agent did not answer within {within:g} s"
            raise NotPushed("agent_timeout", message) from None
        finally:
            del self._awaited[number]
        if answer.code:
            raise NotPushed(answer.code, answer.message)
        _log.info("target changed", device=link.device, tunnel=tunnel.name, target=target or "own")

    def registered(self, link: Link, tunnels: list[Tunnel]) -> None:
        """A run has registered these: tell it what was wanted last."""
        if link.number == 1 and link.is_agent:
            for tunnel in tunnels:
                if tunnel.target:
                    self._send(link, UNAWAITED, tunnel.name, tunnel.target)

    def answered(self, link: Link, record: control.Configured) -> None:
        if record.id == UNAWAITED:
            if record.code:
                _log.warning(
                    "target not taken", device=link.device, code=record.code, error=record.message
                )
            return
        owner, future = self._awaited.get(record.id, (-1, None))
        if future is not None and owner == link.id and not future.done():
            future.set_result(record)

    def failed(self, link: Link, code: str, message: str) -> None:
        """The link ends, or its agent does not know such records."""
        for number, (owner, future) in self._awaited.items():
            if owner == link.id and not future.done():
                future.set_result(control.Configured(number, code, message))

    def _send(self, link: Link, number: int, tunnel: str, target: str) -> None:
        self._engine.link_send(link.id, control.encode(control.Configure(number, tunnel, target)))

    def _link_of(self, tunnel: Tunnel) -> Link:
        links = [self._links.get(number) for number in self._tunnels.links(tunnel)]
        serving = [link for link in links if link is not None and not link.is_leaving]
        if not serving:
            raise NotPushed("device_offline", "the device behind this tunnel is not connected")
        if not serving[-1].is_agent:
            raise NotPushed("no_agent", "the device is no agent that could be told")
        return serving[-1]
