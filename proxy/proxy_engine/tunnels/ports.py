"""Public ports of TCP and UDP tunnels: which there may be, whose they are, and their listeners.

A port is its tunnel's for good: it is kept in the store, so the same tunnel gets it again
after a reconnect or a restart, and nobody else does. It is listened on only while a link
serves the tunnel, and GRACE longer: a link that was lost usually comes back sooner. In that
time visitors are reset, afterwards their connections are refused. A port of TCP and the same one of
UDP are two.
"""

from __future__ import annotations

import errno
import random
import time
from array import array
from collections.abc import Callable, Collection, Iterable, MutableSequence
from typing import TYPE_CHECKING

from proxy_engine import failures, logs
from proxy_engine.errors import error_text

if TYPE_CHECKING:
    from proxy_engine.grants import PortRange, Scopes
    from proxy_engine.storage import Tunnel
    from proxy_engine.tunnels.routes import TunnelTable
    from proxy_engine_core.core import Engine

GRACE = 10.0  # seconds
TRIES = 64  # ports tried when any will do

Refusal = tuple[str, str]  # code, message
Port = tuple[str, int]  # kind of tunnel, number

_log = logs.get("ports")


class Ports:
    """The ports of one engine.

    Args:
        host: IP literal to listen on.
        ranges: ports that tunnels may have at all.
        reserved: ports of the server's own, of TCP, never a tunnel's.
    """

    def __init__(
        self,
        engine: Engine,
        table: TunnelTable,
        *,
        host: str = "127.0.0.1",
        ranges: tuple[PortRange, ...] = (),
        reserved: Collection[int] = (),
        monotonic: Callable[[], float] = time.monotonic,
        shuffle: Callable[[MutableSequence[int]], None] = random.shuffle,
    ) -> None:
        self._engine = engine
        self._table = table
        self._host = host
        self._ranges = ranges
        self._reserved = frozenset(reserved)
        self._monotonic = monotonic
        self._shuffle = shuffle
        self._order = array("H")  # what the ranges allow
        self._open: dict[Port, float] = {}  # when a link last served it
        self._closed: dict[Port, float] = {}  # a moment ago
        self._again: set[Port] = set()  # to be opened once their old listeners are gone

    def allow(self, ranges: tuple[PortRange, ...]) -> None:
        """Other ranges from now on. What is open stays open while it is served."""
        self._ranges = ranges
        self._order = array("H")

    def refusal(self, kind: str, port: int, scopes: Scopes) -> Refusal | None:
        """Why no tunnel of this kind and these scopes can have this port."""
        if not any(first <= port <= last for first, last in self._ranges):
            allowed = ", ".join(map(str, self._ranges)) or "none"
            return "port_forbidden", f"port {port} is none that this server gives out ({allowed})"
        if kind == "tcp" and port in self._reserved:
            return "port_forbidden", f"port {port} is the server's own"
        if not scopes.allows_port(port):
            return "port_forbidden", f"the token does not allow port {port}"
        return None

    def find(self, kind: str, wanted: int, tunnel: Tunnel, scopes: Scopes) -> int | Refusal:
        """An open port for a tunnel: the wanted one, or with 0 the one it has, or any.

        Args:
            kind: what the tunnel is to be.
        """
        if wanted:
            refusal = self.refusal(kind, wanted, scopes) or self._taken(kind, wanted, tunnel)
            return refusal or self.open(kind, wanted) or wanted
        if (
            tunnel.port is not None
            and tunnel.kind == kind
            and self.refusal(kind, tunnel.port, scopes) is None
            and self.open(kind, tunnel.port) is None
        ):
            return tunnel.port
        tries = 0
        for port in self._in_any_order():
            owner = self._table.port_owner(kind, port)
            if owner is None and self.refusal(kind, port, scopes) is None:
                if self.open(kind, port) is None:
                    return port
                tries += 1
                if tries == TRIES:
                    break
        return "port_taken", "no port is free that the server and the token allow"

    def _in_any_order(self) -> Iterable[int]:
        # Shuffled once: an agent may ask for hundreds of ports in one go.
        if not self._order:
            self._order = array("H", [n for a, b in self._ranges for n in range(a, b + 1)])
            self._shuffle(self._order)
        return self._order

    def _taken(self, kind: str, port: int, tunnel: Tunnel) -> Refusal | None:
        owner = self._table.port_owner(kind, port)
        if owner is None or owner.name == tunnel.name:
            return None
        if owner.device_id == tunnel.device_id and not self._table.links(owner):
            return None  # the device calls its tunnel something else now
        return "port_taken", f"port {port} belongs to another tunnel"

    def open(self, kind: str, port: int) -> Refusal | None:
        """Listen on it, unless we do already."""
        now = self._monotonic()
        key = kind, port
        if key in self._open:
            self._open[key] = now
            return None
        listen = self._engine.udp_listen if kind == "udp" else self._engine.tcp_listen
        try:
            listen(self._host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and now - self._closed.get(key, now - 2) < 2:
                self._again.add(key)  # by our own listeners, which are about to go
            else:
                failures.warning(
                    _log,
                    "listener",
                    "port",
                    "port not opened",
                    kind=kind,
                    port=port,
                    error=error_text(error),
                )
                return "port_taken", f"port {port} can not be had: {error_text(error)}"
        self._open[key] = now
        return None

    def close(self, kind: str, port: int) -> None:
        """Nobody serves it any more."""
        key = kind, port
        if self._open.pop(key, None) is not None:
            self._closed[key] = self._monotonic()
            self._again.discard(key)
            (self._engine.udp_close if kind == "udp" else self._engine.tcp_close)(port)

    def tick(self) -> None:
        """Once a second: close what nobody has served for a while."""
        now = self._monotonic()
        for key in list(self._again):
            self._again.discard(key)
            del self._open[key]
            self.open(*key)
        self._closed = {key: at for key, at in self._closed.items() if now - at < 2}
        for key, served_at in list(self._open.items()):
            owner = self._table.port_owner(*key)
            if owner is not None and self._table.links(owner):
                self._open[key] = now
            elif now - served_at >= GRACE:
                self.close(*key)
