"""Which public names lead to which links, and the engine's route table made of that.

A known tunnel always has a route. While its device is away the route has no links, so a
visitor is told 503 device_offline and not 404. Whatever is changed is put into the routes at
once, so live traffic follows, and who watches is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from proxy_engine.listeners import origin
from proxy_engine.storage import Tunnel
from proxy_engine.tunnels.held import Held
from proxy_engine.tunnels.options import NONE, Options, merged, policy_of
from proxy_engine.values import DEFAULT_PROFILE, LABEL, Profile

if TYPE_CHECKING:
    from proxy_engine_core.core import RouteOp, RoutePolicy

KINDS = ("http", "tcp", "udp")
PORT_KINDS = ("tcp", "udp")  # those that have public ports
_NO_POLICY: RoutePolicy = {}
Change = Literal["created", "changed", "deleted", "online", "offline"]


def name_refusal(name: str, kind: str) -> tuple[str, str] | None:
    """(code, message) if no tunnel can have this name or kind."""
    if not LABEL.fullmatch(name):
        return "bad_name", "a tunnel name is a-z, 0-9 and inner hyphens, at most 63"
    if kind not in KINDS:
        return "bad_kind", f"this server has no tunnels of this kind, only: {', '.join(KINDS)}"
    return None


class _Entry(msgspec.Struct, gc=False):
    tunnel: Tunnel
    policy: RoutePolicy  # _NO_POLICY: most have none, and share it
    links: tuple[int, ...] = ()
    options: Options = NONE  # the agent's, of when a link last registered it


class TunnelTable:
    """Every known tunnel and the links that serve it. Methods return route operations.

    Args:
        port, scheme: of the listener that public URLs name.
        notify: called with each change of a tunnel.
        closed: called when a link serves a tunnel no more, with how many still do.
    """

    def __init__(
        self,
        *,
        domain: str,
        port: int,
        scheme: str = "http",
        default_tunnel: str = "",
        default_profile: Profile = DEFAULT_PROFILE,
        default_timing: bool = False,
        notify: Callable[[Change, Tunnel], None] = lambda change, tunnel: None,
        closed: Callable[[Tunnel, int], None] = lambda tunnel, left: None,
    ) -> None:
        self._domain = domain
        self._port = port
        self._scheme = scheme
        self._default_tunnel = default_tunnel
        self._default_profile = default_profile
        self._default_timing = default_timing
        self._notify = notify
        self._closed = closed
        self._entries: dict[str, _Entry] = {}  # by name
        self._by_id: dict[int, _Entry] = {}
        self._ports: dict[tuple[str, int], str] = {}  # names, by kind and port
        self._served: dict[int, tuple[str, ...]] = {}  # by link
        self._holders: dict[int, int] = {}  # tokens, by link
        self._held = Held()
        self._dropped: set[int] = set()  # ids; what the store said before may come in late

    @property
    def domain(self) -> str:
        """NAME.DOMAIN is where a tunnel is."""
        return self._domain

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Tunnel]:
        return (entry.tunnel for entry in self._entries.values())

    def get(self, name: str) -> Tunnel | None:
        entry = self._entries.get(name)
        return None if entry is None else entry.tunnel

    def by_id(self, tunnel_id: int) -> Tunnel | None:
        """Any thread."""
        entry = self._by_id.get(tunnel_id)
        return None if entry is None else entry.tunnel

    def agent_options(self, name: str) -> Options:
        """What the agent wants that registered it."""
        entry = self._entries.get(name)
        return NONE if entry is None else entry.options

    def load(self, tunnels: Iterable[Tunnel]) -> list[RouteOp]:
        """Routes of the tunnels known from before, all offline."""
        for tunnel in tunnels:
            self._add(tunnel)
        return [op for entry in self._entries.values() for op in self._ops(entry)]

    def learn(self, tunnels: Iterable[Tunnel]) -> None:
        """Tunnels that somebody is about to serve."""
        for tunnel in tunnels:
            if tunnel.name not in self._entries:
                self._add(tunnel)
                self._notify("created", tunnel)

    def _add(self, tunnel: Tunnel) -> _Entry:
        entry = _Entry(tunnel, self._policy(tunnel, NONE))
        self._entries[tunnel.name] = self._by_id[tunnel.id] = entry
        if tunnel.port is not None:
            self._ports.setdefault((tunnel.kind, tunnel.port), tunnel.name)
        return entry

    def put(self, tunnel: Tunnel) -> list[RouteOp]:
        """A tunnel is this from now on, new or known; an older state than the one known is not."""
        if tunnel.id in self._dropped:
            return []
        entry = self._entries.get(tunnel.name)
        if entry is not None and entry.tunnel.id != tunnel.id:
            ops = self.drop(entry.tunnel)
            return [*ops, *self.put(tunnel)]
        if entry is None:
            ops = self._ops(self._add(tunnel))
            self._notify("created", tunnel)
            return ops
        if entry.tunnel.version >= tunnel.version:
            return []
        return self.change(tunnel)

    def drop(self, tunnel: Tunnel) -> list[RouteOp]:
        """A tunnel is no more."""
        entry = self._entries.get(tunnel.name)
        if entry is None or entry.tunnel.id != tunnel.id:
            return []
        del self._entries[tunnel.name], self._by_id[tunnel.id]
        self._dropped.add(tunnel.id)
        self._leave_port(entry.tunnel)
        for left in reversed(range(len(entry.links))):
            self._closed(entry.tunnel, left)
        if entry.links:
            self._notify("offline", entry.tunnel)
        self._notify("deleted", entry.tunnel)
        return [("delete", key) for key in self._keys(entry.tunnel)]

    def sync(self, tunnels: Iterable[Tunnel], known_before: Collection[int]) -> list[RouteOp]:
        """What the store has, which others may have changed.

        Args:
            known_before: ids of the tunnels there were here before the store was asked: only of
                those it counts that they are no more.
        """
        found = {tunnel.id: tunnel for tunnel in tunnels}
        gone = [each for each in self if each.id in known_before and each.id not in found]
        ops = [op for tunnel in gone for op in self.drop(tunnel)]
        ops += [op for tunnel in found.values() for op in self.put(tunnel)]
        # A domain may have gone from one tunnel to another.
        return sorted(ops, key=lambda op: op[0] != "delete")

    def _leave_port(self, tunnel: Tunnel) -> None:
        if tunnel.port is None:
            return
        key = tunnel.kind, tunnel.port
        if self._ports.get(key) == tunnel.name:
            del self._ports[key]

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
        self._leave_port(entry.tunnel)
        if tunnel.port is not None:
            self._ports[tunnel.kind, tunnel.port] = tunnel.name
        entry.tunnel = tunnel
        entry.policy = self._policy(tunnel, entry.options)
        self._notify("changed", tunnel)
        ops += [("delete", key) for key in before if key not in after]
        return ops + self._ops(entry)

    def set_default(self, name: str) -> list[RouteOp]:
        """From now on this is the tunnel of requests that match no other; "" for none."""
        before, self._default_tunnel = self._default_tunnel, name
        ops: list[RouteOp] = [("delete", "default")] if before in self._entries else []
        return ops + (self._ops(self._entries[name]) if name in self._entries else [])

    def set_default_profile(self, profile: Profile) -> list[RouteOp]:
        """From now on connections have this profile where nobody has named one."""
        self._default_profile = profile
        return self._all_ops()

    def set_default_timing(self, timing: bool) -> list[RouteOp]:
        """From now on responses have a Server-Timing, or not, where nobody has said."""
        self._default_timing = timing
        return self._all_ops()

    def _all_ops(self) -> list[RouteOp]:
        for entry in self._entries.values():
            entry.policy = self._policy(entry.tunnel, entry.options)
        return [op for entry in self._entries.values() for op in self._ops(entry)]

    def serve(
        self,
        link: int,
        tunnels: Sequence[Tunnel],
        *,
        instead_of: Collection[int] = (),
        token: int = 0,
        options: Mapping[str, Options] | None = None,
    ) -> list[RouteOp]:
        """From now on this link serves these tunnels, beside others, and nothing else.

        Args:
            instead_of: links that give these tunnels up to this one.
            token: whose limit they count for.
            options: what the agent wants of them, by name.
        """
        names = tuple(tunnel.name for tunnel in tunnels)
        ops = self.withdraw(link, keep=names)
        self._served[link] = names
        self._holders[link] = token
        self._held.add(token, names)
        for tunnel in tunnels:
            entry = self._entries.get(tunnel.name) or self._add(tunnel)
            links = tuple(other for other in entry.links if other not in instead_of)
            links = links if link in links else (*links, link)
            wanted = (options or {}).get(tunnel.name, NONE)
            if (links, wanted) == (entry.links, entry.options):
                continue
            was_online, entry.links = bool(entry.links), links
            if wanted != entry.options:
                entry.options = wanted
                entry.policy = self._policy(entry.tunnel, wanted)
            ops += self._ops(entry)
            if not was_online:
                self._notify("online", entry.tunnel)
        return ops

    def withdraw(self, link: int, keep: Collection[str] = ()) -> list[RouteOp]:
        """This link serves nothing any more, or only the tunnels to keep."""
        ops: list[RouteOp] = []
        names = self._served.pop(link, ())
        self._held.drop(self._holders.pop(link, 0), names)
        for name in names:
            entry = self._entries.get(name)
            if entry is None or name in keep:
                continue
            was_routed = link in entry.links  # or another has taken over from it
            entry.links = tuple(other for other in entry.links if other != link)
            self._closed(entry.tunnel, len(entry.links))
            if was_routed:
                ops += self._ops(entry)
                if not entry.links:
                    self._notify("offline", entry.tunnel)
        return ops

    def held(self, token: int, without: Iterable[int]) -> set[str]:
        """The names that links of this token serve, leaving out some links of it."""
        links = [link for link in without if self._holders.get(link) == token]
        return self._held.names(token, [self._served[link] for link in links])

    def _policy(self, tunnel: Tunnel, options: Options) -> RoutePolicy:
        found = policy_of(
            merged(tunnel.options, options),
            name=tunnel.name,
            kind=tunnel.kind,
            is_enabled=tunnel.is_enabled,
            maintenance=tunnel.maintenance,
            default_profile=self._default_profile,
            default_timing=self._default_timing,
        )
        return found or _NO_POLICY

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
        return self.domain_url(f"{tunnel.name}.{self._domain}")

    def domain_url(self, domain: str) -> str:
        return origin(self._scheme, domain, self._port) + "/"

    def _keys(self, tunnel: Tunnel) -> list[str]:
        if tunnel.kind == "udp":
            return [] if tunnel.port is None else [f"udp::{tunnel.port}"]
        if tunnel.kind == "tcp":
            public = [] if tunnel.port is None else [f"tcp::{tunnel.port}"]
            return [f"tcp:{tunnel.name}", *public]
        keys = [f"host:{tunnel.name}.{self._domain}", f"name:{tunnel.name}"]
        keys += [f"host:{domain.name}" for domain in tunnel.domains]
        return [*keys, "default"] if tunnel.name == self._default_tunnel else keys

    def _ops(self, entry: _Entry) -> list[RouteOp]:
        tunnel = entry.tunnel
        if not entry.policy:
            return [("set", key, tunnel.id, entry.links, tunnel.name) for key in self._keys(tunnel)]
        return [
            ("set", key, tunnel.id, entry.links, tunnel.name, entry.policy)
            for key in self._keys(tunnel)
        ]
