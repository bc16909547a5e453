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
    """Every known tunnel and the links that serve it. Methods return route operations."""

    def __init__(self, *, domain: str, port: int, default_tunnel: str = "") -> None:
        self._domain = domain
        self._port = port
        self._default_tunnel = default_tunnel
        self._tunnels: dict[int, Tunnel] = {}
        self._links: dict[int, tuple[int, ...]] = {}  # tunnel id -> links, never empty

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
        for tunnel in tunnels:
            if self._tunnels.get(tunnel.id) == tunnel and self.links(tunnel) == (link,):
                continue
            self._tunnels[tunnel.id] = tunnel
            self._links[tunnel.id] = (link,)
            ops += self._ops(tunnel)
        return ops

    def withdraw(self, link: int, keep: Iterable[int] = ()) -> list[RouteOp]:
        """This link serves nothing any more, or only the tunnels to keep."""
        ops: list[RouteOp] = []
        kept = set(keep)
        for tunnel_id in [
            tunnel_id
            for tunnel_id, links in self._links.items()
            if link in links and tunnel_id not in kept
        ]:
            rest = tuple(other for other in self._links.pop(tunnel_id) if other != link)
            if rest:
                self._links[tunnel_id] = rest
            ops += self._ops(self._tunnels[tunnel_id])
        return ops

    def links(self, tunnel: Tunnel) -> tuple[int, ...]:
        return self._links.get(tunnel.id, ())

    def url(self, tunnel: Tunnel) -> str:
        port = "" if self._port == 80 else f":{self._port}"
        return f"http://{tunnel.name}.{self._domain}{port}/"

    def _ops(self, tunnel: Tunnel) -> list[RouteOp]:
        keys = [f"host:{tunnel.name}.{self._domain}", f"name:{tunnel.name}"]
        if tunnel.name == self._default_tunnel:
            keys.append("default")
        links = self.links(tunnel)
        return [("set", key, tunnel.id, links, tunnel.name) for key in keys]
