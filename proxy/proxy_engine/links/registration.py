""" "register" records: names claimed, routed to the link, and answered.

Records wait in a list; one task works it off, claiming the new names of many with each
write to the store, because after a restart every device comes back at once. A name never
changes hands while the server runs, so names the tunnel table knows need no store at all,
and their records are answered at once. Records are answered in the order they came.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxy_engine import control, failures, logs
from proxy_engine.errors import StorageError
from proxy_engine.hooks import HookError, Refuse, TunnelOpen
from proxy_engine.hooks.manager import Manager
from proxy_engine.links import wishes
from proxy_engine.links.devices import Registry
from proxy_engine.links.table import Link, LinkTable
from proxy_engine.links.wishes import NO_WISHES, Wishes
from proxy_engine.storage import DomainTaken, Store, Tunnel
from proxy_engine.tasks import Tasks
from proxy_engine.tunnels.ports import Ports, Refusal
from proxy_engine.tunnels.routes import PORT_KINDS, TunnelTable, name_refusal

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine

RECORDS_PER_CLAIM = 64  # answered in one burst as well
TEXT_MAX = 128  # characters kept of what an agent says about itself
CHANGE_TRIES = 4  # when an operator changes the tunnel at the same moment

_log = logs.get("links")


class Request(NamedTuple):
    link: Link
    record: control.Register
    is_answered: bool
    wishes: dict[str, Wishes | Refusal]  # by name

    def refusal(self, spec: control.TunnelSpec) -> Refusal | None:
        """Why this tunnel can not be, whoever asks, or this token does not allow it."""
        found = name_refusal(spec.name, spec.kind) or _port_refusal(spec)
        if found is None and not self.link.scopes.allows_tunnel(spec.name):
            found = "tunnel_forbidden", "the token does not allow this name"
        wanted = self.wishes.get(spec.name, NO_WISHES)
        return found if found is not None or isinstance(wanted, Wishes) else wanted

    def wanted(self, name: str) -> Wishes:
        """Of a tunnel that is not refused."""
        found = self.wishes.get(name, NO_WISHES)
        assert isinstance(found, Wishes)
        return found


class Registration:
    """Works off the records of all links.

    Args:
        give_way: called with a link that begins to serve and those it takes over from.
        registered: called with a link and its tunnels, once it has its answer.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        links: LinkTable,
        tunnels: TunnelTable,
        tasks: Tasks,
        registry: Registry,
        ports: Ports,
        give_way: Callable[[Link, list[Link]], None],
        registered: Callable[[Link, list[Tunnel]], None],
        hooks: Manager,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._links = links
        self._tunnels = tunnels
        self._tasks = tasks
        self._registry = registry
        self._ports = ports
        self._give_way = give_way
        self._registered = registered
        self._hooks = hooks
        self._asking: dict[int, list[Request]] = {}  # hooks about them, by link
        self._clock = clock
        self._waiting: list[Request] = []
        self._is_working = False

    def put(self, link: Link, record: control.Register, *, is_answered: bool = True) -> None:
        """
        Args:
            is_answered: False: the link speaks no control records.
        """
        read: dict[str, Wishes | Refusal] = {}
        if len(record.tunnels) <= control.TUNNELS_MAX:
            for spec in record.tunnels:
                read[spec.name] = wishes.read(spec, link.scopes, self._tunnels.domain)
        request = Request(link, record, is_answered, read)
        if self._hooks.wants("on_tunnel_open"):
            if link.id in self._asking:
                self._asking[link.id].append(request)  # behind the one before it
                return
            self._asking[link.id] = [request]
            self._tasks.spawn(self._ask_hooks(link.id))
        else:
            self._put(request)

    async def _ask_hooks(self, link_id: int) -> None:
        """Ask about the records of a link, one after the other; other links need not wait."""
        asking = self._asking[link_id]
        try:
            while asking:
                request = asking[0]
                if len(request.record.tunnels) <= control.TUNNELS_MAX:
                    specs = {spec.name: spec for spec in request.record.tunnels}.values()
                    await asyncio.gather(
                        *(
                            self._ask_hook(request, spec)
                            for spec in specs
                            if request.refusal(spec) is None
                        )
                    )
                self._put(request)
                del asking[0]
        finally:
            del self._asking[link_id]

    async def _ask_hook(self, request: Request, spec: control.TunnelSpec) -> None:
        link = request.link
        event = TunnelOpen(
            at=self._clock(),
            tunnel=spec.name,
            kind=spec.kind,
            port=spec.port,
            device=link.device,
            device_id=link.device_id,
            token=link.token,
            token_id=link.token_id,
            address=link.peer.rpartition(":")[0].strip("[]"),
            agent=request.record.agent[:TEXT_MAX],
            platform=request.record.platform[:TEXT_MAX],
        )
        try:
            await self._hooks.ask("on_tunnel_open", event)
        except Refuse as error:
            request.wishes[spec.name] = error.reason, str(error)
        except HookError:  # which is logged; agents need not know whose hooks there are
            message = "the server can not tell now whether this tunnel may be"
            request.wishes[spec.name] = "hook_failed", message

    def _put(self, request: Request) -> None:
        if (
            not self._waiting
            and not self._is_working
            and not self._unknown(request)
            and not self._changes(request)
        ):
            self._register(request, set(), {})
            return
        self._waiting.append(request)
        if not self._is_working:
            self._is_working = True
            self._tasks.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:RECORDS_PER_CLAIM]
                del self._waiting[:RECORDS_PER_CLAIM]
                failed = await self._claim(batch)
                for request in batch:
                    refused = await self._change(request, failed)
                    self._register(request, failed, refused)
        finally:
            self._is_working = False

    def _unknown(self, request: Request) -> dict[str, tuple[str, int]]:
        """Kind and claimant of the names that are in nobody's hands yet, as far as we know."""
        record = request.record
        if len(record.tunnels) > control.TUNNELS_MAX:
            return {}  # refused as a whole
        return {
            spec.name: (spec.kind, request.link.device_id)
            for spec in self._permitted(request)
            if self._tunnels.get(spec.name) is None
        }

    def _permitted(self, request: Request) -> list[control.TunnelSpec]:
        """The tunnels that can be and that the token allows; it may allow only so many."""
        link = request.link
        found = [
            spec
            for spec in {spec.name: spec for spec in request.record.tunnels}.values()
            if request.refusal(spec) is None
        ]
        if not link.limits.tunnels:
            return found
        others = [other.id for other in self._links.older(link)]
        held = self._tunnels.held(link.token_id, without=[link.id, *others])
        permitted = []
        for spec in found:
            if spec.name in held or len(held) < link.limits.tunnels:
                held.add(spec.name)
                permitted.append(spec)
        return permitted

    async def _claim(self, batch: list[Request]) -> set[str]:
        """Get every new name an owner, the first who asked; those the store failed for."""
        names: dict[str, tuple[str, int]] = {}
        for request in batch:
            names = {**self._unknown(request), **names}
        claims = [(name, kind, device_id) for name, (kind, device_id) in names.items()]
        if not claims:
            return set()
        try:
            found = await self._store.tunnels_claim(claims, self._clock())
        except StorageError as error:
            failures.error(
                _log, "store", "tunnels", "tunnels not registered, the store fails", error=error
            )
            return set(names)
        self._tunnels.learn(found)
        return set()

    def _changes(self, request: Request) -> list[tuple[control.TunnelSpec, Tunnel]]:
        """Tunnels of this device that are to become something else: other kinds, ports, domains."""
        if len(request.record.tunnels) > control.TUNNELS_MAX:
            return []
        found = []
        for spec in self._permitted(request):
            tunnel = self._tunnels.get(spec.name)
            if tunnel is None or tunnel.device_id != request.link.device_id:
                continue
            domains = wishes.with_domains(tunnel, request.wanted(spec.name).domains)
            if (
                spec.kind != tunnel.kind
                or domains != tunnel.domains
                or not self._has_port(spec, tunnel, request.link)
            ):
                found.append((spec, tunnel))
        return found

    def _has_port(self, spec: control.TunnelSpec, tunnel: Tunnel, link: Link) -> bool:
        if spec.kind not in PORT_KINDS or spec.port is None or tunnel.port is None:
            return spec.kind not in PORT_KINDS or spec.port is tunnel.port
        return (
            spec.port in (0, tunnel.port)
            and self._ports.refusal(spec.kind, tunnel.port, link.scopes) is None
            and self._ports.open(spec.kind, tunnel.port) is None
        )

    async def _change(self, request: Request, failed: set[str]) -> dict[str, Refusal]:
        """Make the tunnels what they are to be; those that can not."""
        refused: dict[str, Refusal] = {}
        link = request.link
        if self._links.get(link.id) is not link or link.is_leaving:
            return refused
        for spec, tunnel in self._changes(request):
            port = None
            if spec.kind in PORT_KINDS and spec.port is not None:
                found = self._ports.find(spec.kind, spec.port, tunnel, link.scopes)
                if not isinstance(found, int):
                    refused[spec.name] = found
                    continue
                port = found
            try:
                if (spec.kind, port) != (tunnel.kind, tunnel.port):
                    await self._change_kind(tunnel, spec.kind, port)
                await self._change_domains(spec.name, request.wanted(spec.name).domains)
            except DomainTaken as error:
                refused[spec.name] = "domain_taken", f"another tunnel has the domain {error}"
            except StorageError as error:
                failures.error(
                    _log, "store", "tunnels", "tunnel not changed, the store fails", error=error
                )
                failed.add(spec.name)
        return refused

    async def _change_kind(self, tunnel: Tunnel, kind: str, port: int | None) -> None:
        changed = await self._store.tunnel_change(tunnel.id, kind=kind, port=port)
        if changed is not None:
            self._engine.routes_apply(self._tunnels.put(changed))
        if tunnel.port is not None and (tunnel.kind, tunnel.port) != (kind, port):
            self._ports.close(tunnel.kind, tunnel.port)

    async def _change_domains(self, name: str, wanted: tuple[str, ...]) -> None:
        """Give the tunnel the domains that its agent wants, and take those it wants no more."""
        tunnel = self._tunnels.get(name)
        for _ in range(CHANGE_TRIES):
            if tunnel is None:
                return
            domains = wishes.with_domains(tunnel, wanted)
            if domains == tunnel.domains:
                return
            tunnel = msgspec.structs.replace(tunnel, domains=domains)
            changed = await self._store.tunnel_update(tunnel)
            if changed is not None:
                self._engine.routes_apply(self._tunnels.put(changed))
                return
            tunnel = await self._store.tunnel(name)  # somebody else changed it meanwhile
        raise StorageError("the tunnel is changed by somebody else all the time")

    def _public(self, tunnel: Tunnel, link: Link) -> control.PublicTunnel:
        return control.PublicTunnel(
            tunnel.name,
            tunnel.kind,
            self._tunnels.url(tunnel, link.device),
            [self._tunnels.domain_url(domain.name) for domain in tunnel.domains],
            disabled=not tunnel.is_enabled,
        )

    def _register(
        self, request: Request, failed: set[str], refused_for: dict[str, Refusal]
    ) -> None:
        link, record, is_answered, _ = request
        if self._links.get(link.id) is not link or link.is_leaving:
            return  # gone or replaced while the store worked
        if len(record.tunnels) > control.TUNNELS_MAX:
            message = f"more than {control.TUNNELS_MAX} tunnels"
            self._engine.link_send(link.id, control.encode(control.Error("bad_record", message)))
            return
        # Thousands of links say the same here: keep one copy.
        link.agent = sys.intern(record.agent[:TEXT_MAX])
        link.platform = sys.intern(record.platform[:TEXT_MAX])
        self._registry.registered(link)
        granted, refused = [], []
        permitted = {spec.name for spec in self._permitted(request)}
        has_failed = any(spec.name in failed for spec in record.tunnels)
        for spec in {spec.name: spec for spec in record.tunnels}.values():
            reason = request.refusal(spec)
            tunnel = self._tunnels.get(spec.name)
            if reason is None and spec.name not in permitted:
                most = link.limits.tunnels
                reason = "too_many_tunnels", f"the token allows {most} tunnels at once"
            if reason is None and has_failed:  # all or nothing: the agent tries again
                reason = "store_failed", "the server's store fails; try again later"
            elif reason is None and (tunnel is None or tunnel.device_id != link.device_id):
                reason = "tunnel_taken", "the name belongs to another device"
            elif reason is None:
                reason = refused_for.get(spec.name)
            if reason is None and tunnel is not None and tunnel.port is not None:
                reason = self._ports.open(tunnel.kind, tunnel.port)
            if reason is None and tunnel is not None:
                granted.append(tunnel)
            elif reason is not None:
                refused.append(control.RefusedTunnel(spec.name[:63], *reason))
        older = self._links.older(link)
        self._engine.routes_apply(
            self._tunnels.serve(
                link.id,
                granted,
                instead_of=[other.id for other in older],
                token=link.token_id,
                options={each.name: request.wanted(each.name).options for each in granted},
            )
        )
        moved = {spec.name for spec in record.tunnels if spec.moved}
        for tunnel in granted:
            if tunnel.name in moved:  # no connection to the old target is used again
                self._engine.link_flush(link.id, tunnel.id)
        self._give_way(link, older)
        if is_answered:
            public = [self._public(each, link) for each in granted]
            for answer in control.encode_registered(control.Registered(public, refused)):
                self._engine.link_send(link.id, answer)
            self._registered(link, granted)
        _log.info(
            "tunnels registered",
            device=link.device,
            link=link.id,
            number=link.number,
            worker=link.worker,
            peer=link.peer,
            tunnels=",".join(tunnel.name for tunnel in granted),
            refused=",".join(f"{item.name}:{item.code}" for item in refused),
        )


def _port_refusal(spec: control.TunnelSpec) -> Refusal | None:
    if spec.kind == "udp" and spec.port is None:
        return "bad_port", "a UDP tunnel has a public port"
    if spec.port is None or (spec.kind in PORT_KINDS and 0 <= spec.port <= 65535):
        return None
    return "bad_port", "a port is 0 to 65535, and of a TCP or UDP tunnel"
