"""Which server an agent dials next, and over which carrier.

Several servers are tried in the order given, and so is each with both carriers where the
transport is "auto": raw first, the faster one, then WebSocket, which passes proxies that know
nothing else. What worked is tried first the next time. All links of a run go to one server:
only a run without a link that serves moves on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from proxy_engine.errors import UsageError
from proxy_engine.handshake import Carrier

Transport = Literal["auto", "ws", "tcp"]
CARRIERS: dict[str, tuple[Carrier, ...]] = {
    "auto": ("raw", "websocket"),
    "ws": ("websocket",),
    "tcp": ("raw",),
}


class ServerUrl(NamedTuple):
    host: str
    port: int
    authority: str  # for the Host field
    is_tls: bool = False


def parse_server(url: str) -> ServerUrl:
    """Where --server points. Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f'server "{url}": {error}') from None
    if parts.scheme not in ("http", "ws", "https", "wss") or not parts.hostname:
        raise UsageError(f'server "{url}" is not a URL such as https://proxy.example.com')
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(f'server "{url}": only scheme, host and port, please')
    if not parts.netloc.isascii() or any(c.isspace() for c in parts.netloc) or port == 0:
        raise UsageError(f'server "{url}" has no usable host and port')
    is_tls = parts.scheme in ("https", "wss")
    return ServerUrl(parts.hostname, port or (443 if is_tls else 80), parts.netloc, is_tls)


class Servers:
    """Implements the above; the first server is the current one."""

    def __init__(self, servers: Sequence[ServerUrl], transport: str) -> None:
        carriers = CARRIERS[transport]
        self._servers = list(servers)
        self._carriers = [list(carriers) for _ in servers]  # in the order to be tried
        self._current = 0
        self._tried = 0  # servers without success, since something worked or all were tried
        self._carrier = 0

    @property
    def server(self) -> ServerUrl:
        return self._servers[self._current]

    @property
    def carrier(self) -> Carrier:
        return self._carriers[self._current][self._carrier]

    @property
    def has_other_carrier(self) -> bool:
        """One that was not tried since the last success."""
        return self._carrier + 1 < len(self._carriers[self._current])

    def worked(self, carrier: Carrier) -> None:
        """A link of the current server serves over this carrier."""
        carriers = self._carriers[self._current]
        carriers.sort(key=lambda other: other != carrier)
        self._carrier = self._tried = 0

    def failed(self, *, may_be_carrier: bool) -> bool:
        """Go on to what is next; whether it is something not tried yet.

        Args:
            may_be_carrier: something on the way may not let the carrier pass.
        """
        if may_be_carrier and self.has_other_carrier:
            self._carrier += 1
            return True
        self._carrier = 0
        self._current = (self._current + 1) % len(self._servers)
        self._tried += 1
        if self._tried < len(self._servers):
            return True
        self._tried = 0
        return False
