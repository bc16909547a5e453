"""Which public names lead to which links, and the engine's route table made of that.

A known tunnel always has a route. While its device is away the route has no links, so a
visitor is told 503 device_offline and not 404.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from proxy_engine.storage import Tunnel
from proxy_engine.values import LABEL

if TYPE_CHECKING:
    from proxy_engine_core.core import RouteOp

KINDS = ("http", "tcp", "udp")
PORT_KINDS = ("tcp", "udp")  # those that have public ports


def name_refusal(name: str, kind: str) -> tuple[str, str] | None:
    """(code, message) if no tunnel can have this name or kind."""
    if not LABEL.fullmatch(name):
        return "bad_name", "a tunnel name is a-z, 0-9 and inner hyphens, at most 63"
    if kind not in KINDS:
        return "bad_kind", f"this server has no tunnels of this kind, only: {', '.join(KINDS)}"
    return None


class _Entry(msgspec.Struct):
    tunnel: Tunnel
    links: tuple[int, ...] = ()


class TunnelTable:
    """Every known tunnel and the links that serve it. Methods return route operations."""

    def __init__(self, *, domain: str, port: int, default_tunnel: str = "") -> None:
        self._domain = domain
        self._port = port
        self._default_tunnel = default_tunnel
        self._entries: dict[str, _Entry] = {}  # by name
        self._ports: dict[tuple[str, int], str] = {}  # names, by kind and port
        self._served: dict[int, tuple[str, ...]] = {}  # by link
        self._holders: dict[int, int] = {}  # tokens, by link
        self._held: dict[int, Counter[str]] = {}  # links that serve a name, by token

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Tunnel]:
        return (entry.tunnel for entry in self._entries.values())

    def get(self, name: str) -> Tunnel | None:
        entry = self._entries.get(name)
        return None if entry is None else entry.tunnel

    def load(self, tunnels: Iterable[Tunnel]) -> list[RouteOp]:
        """Routes of the tunnels known from before, all offline."""
        self.learn(tunnels)
        return [op for entry in self._entries.values() for op in self._ops(entry)]

    def learn(self, tunnels: Iterable[Tunnel]) -> None:
        """Tunnels that somebody is about to serve."""
        for tunnel in tunnels:
            self._entries.setdefault(tunnel.name, _Entry(tunnel))
            if tunnel.port is not None:
                self._ports.setdefault((tunnel.kind, tunnel.port), tunnel.name)

    def port_owner(self, kind: str, port: int) -> Tunnel | None:
        """The tunnel of this kind that has this public port, served or not."""
        name = self._ports.get((kind, port))
        return None if name is None else self.get(name)

    def change(self, tunnel: Tunnel) -> list[RouteOp]:
        """A known tunnel is this from now on. Whoever had its port has none any more."""
        entry = self._entries[tunnel.name]
        owner = None if tunnel.port is None else self.port_owner(tunnel.kind, tunnel.port)
        ops: list[RouteOp] = []
        if owner is not None and owner.name != tunnel.name:
            ops += self.change(msgspec.structs.replace(owner, port=None))
        before, after = self._keys(entry.tunnel), self._keys(tunnel)
        if entry.tunnel.port is not None:
            del self._ports[entry.tunnel.kind, entry.tunnel.port]
        if tunnel.port is not None:
            self._ports[tunnel.kind, tunnel.port] = tunnel.name
        entry.tunnel = tunnel
        ops += [("delete", key) for key in before if key not in after]
        return ops + self._ops(entry)

    def set_default(self, name: str) -> list[RouteOp]:
        """From now on this is the tunnel of requests that match no other; "" for none."""
        before, self._default_tunnel = self._default_tunnel, name
        ops: list[RouteOp] = [("delete", "default")] if before in self._entries else []
        return ops + (self._ops(self._entries[name]) if name in self._entries else [])

    def serve(
        self,
        link: int,
        tunnels: Sequence[Tunnel],
        *,
        instead_of: Collection[int] = (),
        token: int = 0,
    ) -> list[RouteOp]:
        """From now on this link serves these tunnels, beside others, and nothing else.

        Args:
            instead_of: links that give these tunnels up to this one.
            token: whose limit they count for.
        """
        names = tuple(tunnel.name for tunnel in tunnels)
        ops = self.withdraw(link, keep=names)
        self._served[link] = names
        self._holders[link] = token
        self._held.setdefault(token, Counter()).update(names)
        for tunnel in tunnels:
            entry = self._entries.setdefault(tunnel.name, _Entry(tunnel))
            links = tuple(other for other in entry.links if other not in instead_of)
            links = links if link in links else (*links, link)
            if links != entry.links:
                entry.links = links
                ops += self._ops(entry)
        return ops

    def withdraw(self, link: int, keep: Collection[str] = ()) -> list[RouteOp]:
        """This link serves nothing any more, or only the tunnels to keep."""
        ops: list[RouteOp] = []
        names = self._served.pop(link, ())
        self._drop(self._holders.pop(link, 0), names)
        for name in names:
            entry = self._entries.get(name)
            if entry is not None and name not in keep and link in entry.links:
                entry.links = tuple(other for other in entry.links if other != link)
                ops += self._ops(entry)
        return ops

    def held(self, token: int, without: Iterable[int]) -> set[str]:
        """The names that links of this token serve, leaving out some links of it."""
        rest = Counter(self._held.get(token, ()))
        for link in without:
            if self._holders.get(link) == token:
                rest.subtract(self._served[link])
        return {name for name, count in rest.items() if count > 0}

    def _drop(self, token: int, names: Iterable[str]) -> None:
        held = self._held.get(token)
        if held is None:
            return
        for name in names:
            held[name] -= 1
            if not held[name]:
                del held[name]
        if not held:
            del self._held[token]

    def owners(self) -> set[int]:
        """The devices that the tunnels belong to."""
        return {entry.tunnel.device_id for entry in self._entries.values()}

    def forget(self, devices: Container[int]) -> list[RouteOp]:
        """These devices are no more, nor are their tunnels."""
        gone = [each for each in self._entries.values() if each.tunnel.device_id in devices]
        for entry in gone:
            del self._entries[entry.tunnel.name]
            if entry.tunnel.port is not None:
                del self._ports[entry.tunnel.kind, entry.tunnel.port]
        return [("delete", key) for entry in gone for key in self._keys(entry.tunnel)]

    def links(self, tunnel: Tunnel) -> tuple[int, ...]:
        """Those that serve it; () while its device is away."""
        entry = self._entries.get(tunnel.name)
        return () if entry is None else entry.links

    def url(self, tunnel: Tunnel, device: str) -> str:
        """Where it is; "private:DEVICE/NAME" for a TCP tunnel without a public port."""
        if tunnel.kind in PORT_KINDS:
            if tunnel.port is None:
                return f"private:{device}/{tunnel.name}"
            return f"{tunnel.kind}://{self._domain}:{tunnel.port}"
        port = "" if self._port == 80 else f":{self._port}"
        return f"http://{tunnel.name}.{self._domain}{port}/"

    def _keys(self, tunnel: Tunnel) -> list[str]:
        if tunnel.kind == "udp":
            return [] if tunnel.port is None else [f"udp::{tunnel.port}"]
        if tunnel.kind == "tcp":
            public = [] if tunnel.port is None else [f"tcp::{tunnel.port}"]
            return [f"tcp:{tunnel.name}", *public]
        keys = [f"host:{tunnel.name}.{self._domain}", f"name:{tunnel.name}"]
        return [*keys, "default"] if tunnel.name == self._default_tunnel else keys

    def _ops(self, entry: _Entry) -> list[RouteOp]:
        tunnel = entry.tunnel
        return [("set", key, tunnel.id, entry.links, tunnel.name) for key in self._keys(tunnel)]
