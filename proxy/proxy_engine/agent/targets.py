"""The agent's targets: names resolved for the engine, which knows only IP literals.

Addresses are looked up at the start, every REFRESH_INTERVAL, and when a target could not
be connected. A name may have several; the engine gets them all and tries each in turn, so
`localhost` works whether the service listens on 127.0.0.1 or on ::1 only.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from proxy_engine import logs
from proxy_engine.errors import error_text
from proxy_engine.settings.allowed import Rule, is_allowed
from proxy_engine.values import UNIX, Address

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Target, TlsClient

REFRESH_INTERVAL = 60.0  # seconds


class NotTaken(Exception):
    """A target can not be changed. code is one of docs/errors.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


Resolve = Callable[[str, int], Awaitable[list[str]]]

_log = logs.get("targets")


async def resolve(host: str, port: int) -> list[str]:
    """IP literals of a name, IPv4 first, or the name of a socket without symbolic links. Raises
    OSError."""
    if host.startswith(f"{UNIX}/"):
        return [_real_path(host)]
    if host.startswith(UNIX):
        return [host]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that can not be encoded
        raise OSError(f'"{host}" is not a host name') from None
    # A development server usually listens on 127.0.0.1, so ::1 first would fail first.
    found.sort(key=lambda item: item[0] != socket.AF_INET)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _real_path(name: str) -> str:
    return UNIX + os.path.realpath(name.removeprefix(UNIX))


class Targets:
    """Gives the engine the addresses of targets.

    Args:
        allowed: where targets may be; (): anywhere. Others are unknown to the engine.
        tls: how to speak to those that speak TLS, by tunnel.
    """

    def __init__(
        self,
        engine: Engine,
        targets: Mapping[str, Address],
        resolve: Resolve = resolve,
        flags: Mapping[str, int] | None = None,
        *,
        allowed: Sequence[Rule] = (),
        tls: Callable[[], Mapping[str, TlsClient]] = dict,
    ) -> None:
        self._tls = tls
        self._allowed = allowed
        self._forbidden: dict[str, list[str]] = {}  # addresses that were found, by tunnel
        self._engine = engine
        self._targets = dict(targets)
        self._own = dict(targets)  # before anybody changed them
        self._flags = flags or {}  # TARGET_... of the engine; of those that have any
        self._resolve = resolve
        self._found: dict[str, list[str]] = {}
        self._unknown: set[str] = set()
        self._applied: list[Target] | None = None
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Look every name up and give the engine what changed."""
        async with self._refreshing:
            for tunnel, target in self._targets.items():
                try:
                    found = await self._resolve(target.host, target.port)
                except OSError as error:
                    # What worked before stays; a resolver may be away for a moment.
                    if tunnel not in self._unknown:
                        _log.warning(
                            "target not found",
                            tunnel=tunnel,
                            target=target,
                            error=error_text(error),
                        )
                    self._unknown.add(tunnel)
                    continue
                self._unknown.discard(tunnel)
                self._found[tunnel] = self._permitted(tunnel, target, found)
            self._apply()

    async def replace(
        self,
        targets: Mapping[str, Address],
        flags: Mapping[str, int],
        tls: Callable[[], Mapping[str, TlsClient]],
        allowed: Sequence[Rule],
    ) -> None:
        """These tunnels, instead of those there were; where the server led one, it stays."""
        async with self._refreshing:
            self._tls, self._flags, self._allowed = tls, dict(flags), allowed
            for tunnel, target in targets.items():
                if self._own.get(tunnel) != target:
                    self._targets[tunnel] = target
                    self._found.pop(tunnel, None)
            for tunnel in self._own.keys() - targets.keys():
                for known in (self._targets, self._found, self._forbidden):
                    known.pop(tunnel, None)
                self._unknown.discard(tunnel)
            self._own = dict(targets)
        await self.refresh()

    async def change(self, tunnel: str, target: Address | None) -> Address:
        """From now on the tunnel leads there, None: where it led at first. Returns where.

        Raises: NotTaken; then it leads where it did.
        """
        async with self._refreshing:
            if tunnel not in self._own:
                raise NotTaken("unknown_target", f"this agent has no tunnel {tunnel}")
            target = target or self._own[tunnel]
            try:
                found = await self._resolve(target.host, target.port)
            except OSError as error:
                raise NotTaken("target_not_found", f"{target}: {error_text(error)}") from None
            permitted = self._permitted(tunnel, target, found)
            if not permitted:
                message = f"{target} is not in the agent's --allow-target"
                raise NotTaken("target_forbidden", message)
            self._targets[tunnel], self._found[tunnel] = target, permitted
            self._apply()
            return target

    def _permitted(self, tunnel: str, target: Address, found: list[str]) -> list[str]:
        permitted = [ip for ip in found if is_allowed(ip, target.port, self._allowed)]
        forbidden = [ip for ip in found if ip not in permitted]
        if forbidden and forbidden != self._forbidden.get(tunnel):
            _log.warning(
                "target not allowed", tunnel=tunnel, target=target, addresses=",".join(forbidden)
            )
        self._forbidden[tunnel] = forbidden
        return permitted

    def _apply(self) -> None:
        tls = self._tls()
        table = [
            self._target(tunnel, address, tls.get(tunnel))
            for tunnel, found in self._found.items()
            for address in found
        ]
        if table != self._applied:
            self._applied = table
            self._engine.targets_apply(table)

    def _target(self, tunnel: str, address: str, tls: TlsClient | None) -> Target:
        port, flags = self._targets[tunnel].port, self._flags.get(tunnel, 0)
        return (tunnel, address, port, flags, tls) if tls else (tunnel, address, port, flags)
