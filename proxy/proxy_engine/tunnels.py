"""Which public names lead to which links, and the engine's route table made of that.

A known tunnel always has a route. While its device is away the route has no links, so a
visitor is told 503 device_offline and not 404.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from proxy_engine.storage import Tunnel
from proxy_engine.values import LABEL

if TYPE_CHECKING:
    from proxy_engine_core.core import RouteOp

KINDS = ("http",)


def name_refusal(name: str, kind: str) -> tuple[str, str] | None:
    """(code, message) if no tunnel can have this name or kind."""
    if not LABEL.fullmatch(name):
        return "bad_name", "a tunnel name is a-z, 0-9 and inner hyphens, at most 63"
    if kind not in KINDS:
        return "bad_kind", f"this server has no tunnels of this kind, only: {', '.join(KINDS)}"
    return None


class TunnelTable:
    """Every known tunnel and the link that serves it. Methods return route operations."""

    def __init__(self, *, domain: str, port: int, default_tunnel: str = "") -> None:
        self._domain = domain
        self._port = port
        self._default_tunnel = default_tunnel
        self._tunnels: dict[int, Tunnel] = {}
        self._links: dict[int, int] = {}  # tunnel id -> the link that serves it
        self._served: dict[int, set[int]] = {}  # ... and the other way around

    def __len__(self) -> int:
        return len(self._tunnels)

    def __iter__(self) -> Iterator[Tunnel]:
        return iter(self._tunnels.values())

    def load(self, tunnels: Iterable[Tunnel]) -> list[RouteOp]:
        """Routes of the tunnels known from before, all offline."""
        ops: list[RouteOp] = []
        for tunnel in tunnels:
            self._tunnels[tunnel.id] = tunnel
            ops += self._ops(tunnel)
        return ops

    def serve(self, link: int, tunnels: Sequence[Tunnel]) -> list[RouteOp]:
        """From now on this link serves these tunnels, alone, and no others."""
        ops = self.withdraw(link, keep={tunnel.id for tunnel in tunnels})
        self._served[link] = {tunnel.id for tunnel in tunnels}
        for tunnel in tunnels:
            before = self._links.get(tunnel.id)
            if before == link:
                continue
            if before is not None:
                self._served[before].discard(tunnel.id)
            self._tunnels[tunnel.id] = tunnel
            self._links[tunnel.id] = link
            ops += self._ops(tunnel)
        return ops

    def withdraw(self, link: int, keep: Iterable[int] = ()) -> list[RouteOp]:
        """This link serves nothing any more, or only the tunnels to keep."""
        kept = set(keep)
        ops: list[RouteOp] = []
        for tunnel_id in sorted(self._served.pop(link, set()) - kept):
            del self._links[tunnel_id]
            ops += self._ops(self._tunnels[tunnel_id])
        return ops

    def links(self, tunnel: Tunnel) -> tuple[int, ...]:
        link = self._links.get(tunnel.id)
        return () if link is None else (link,)

    def url(self, tunnel: Tunnel) -> str:
        port = "" if self._port == 80 else f":{self._port}"
        return f"http://{tunnel.name}.{self._domain}{port}/"

    def _ops(self, tunnel: Tunnel) -> list[RouteOp]:
        keys = [f"host:{tunnel.name}.{self._domain}", f"name:{tunnel.name}"]
        if tunnel.name == self._default_tunnel:
            keys.append("default")
        links = self.links(tunnel)
        return [("set", key, tunnel.id, links, tunnel.name) for key in keys]
