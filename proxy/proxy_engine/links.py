"""Device links on the server: what each serves, and when it ends.

The life of a link:

    EVENT_AUTH     the request is checked and answered (admission.py)
    EVENT_LINK_UP  the link exists; it serves nothing yet
    "register"     its tunnels are claimed and routed to it; only then are older links of the
                   same device closed ("replaced"), so that visitors never fall between two
    EVENT_LINK_DOWN  its routes are withdrawn

A link that is no agent of ours (no Proxy-Engine-Version) need not speak control records:
it serves the tunnel named like its device at once.

Everything here runs on the event loop. Store calls are awaited in tasks, one at a time
for each device, so records of a link are answered in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from proxy_engine import control, logs, tokens
from proxy_engine.admission import Admission, Ask
from proxy_engine.errors import StorageError
from proxy_engine.storage import Store, Token, Tunnel
from proxy_engine.tasks import Tasks
from proxy_engine.tunnels import TunnelTable, name_refusal
from proxy_engine_core.core import (
    EVENT_AUTH,
    EVENT_CONTROL,
    EVENT_LINK_DOWN,
    EVENT_LINK_UP,
)

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Event

_log = logs.get("links")


class Link(msgspec.Struct, kw_only=True, eq=False):
    id: int
    device_id: int
    device: str
    peer: str
    token: Token
    instance: str
    is_agent: bool
    since: float
    agent: str = ""
    platform: str = ""
    is_closing: bool = False


class Links:
    """Implements the life above for one engine."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        table: TunnelTable,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._store = store
        self._table = table
        self._clock = clock
        self._tasks = Tasks()
        self._admission = Admission(engine, store, self._tasks, clock=clock)
        self._links: dict[int, Link] = {}
        self._by_device: dict[int, list[Link]] = {}
        self._queues: dict[int, asyncio.Lock] = {}  # by device

    def __len__(self) -> int:
        return len(self._links)

    def of_device(self, device_id: int) -> list[Link]:
        """In the order they came up."""
        return list(self._by_device.get(device_id, ()))

    def on_event(self, event: Event) -> None:
        if event[0] == EVENT_AUTH:
            self._admission.ask(Ask(*event[1:]))
        elif event[0] == EVENT_LINK_UP:
            self._up(*event[1:])
        elif event[0] == EVENT_CONTROL:
            self._record(*event[1:])
        elif event[0] == EVENT_LINK_DOWN:
            self._down(*event[1:])

    def drain(self) -> None:
        """Refuse new links and tell the present ones to look elsewhere."""
        self._admission.is_draining = True
        for link in self._links.values():
            self._engine.link_send(link.id, control.encode(control.Drain()))

    async def settle(self) -> None:
        """Until every request and record so far has its answer."""
        await self._tasks.settle()

    async def close(self) -> None:
        await self._tasks.close()

    async def recheck(self) -> None:
        """Close links whose token or device is not good any more."""
        known = {token.id: token for token in await self._store.tokens()}
        now = self._clock()
        for link in list(self._links.values()):
            token = known.get(link.token.id)
            reason = tokens.refusal(token, now)
            if reason is None and token is not None and token.is_blocked:
                reason = "blocked_device"
            if reason is not None:
                self._close(link, reason, "the server took back this device's permission")

    async def tick(self) -> None:
        """Once a second: what time does to links, and what is written now and then."""
        now = self._clock()
        for link in list(self._links.values()):
            if link.token.expires_at is not None and link.token.expires_at <= now:
                self._close(link, "expired_token", "the token has expired")
        await self._admission.tick()

    # Up and down

    def _up(self, link_id: int, device_id: int, peer: str, head: bytes) -> None:
        accepted = self._admission.take(device_id, peer)
        if accepted is None:  # not one we let in, or far too late
            _log.warning("unknown link closed", link=link_id, device=device_id, peer=peer)
            self._engine.link_close(link_id, "unknown")
            return
        link = Link(
            id=link_id,
            device_id=device_id,
            device=accepted.token.device or str(device_id),
            peer=peer,
            token=accepted.token,
            instance=accepted.offer.instance,
            is_agent=accepted.offer.is_agent,
            since=self._clock(),
        )
        self._links[link_id] = link
        self._by_device.setdefault(device_id, []).append(link)
        _log.info("link up", device=link.device, link=link_id, peer=peer)
        if self._admission.is_draining:
            self._engine.link_send(link_id, control.encode(control.Drain()))
        if not link.is_agent:
            specs = [control.TunnelSpec(name=link.device.lower())]
            self._tasks.spawn(self._register(link, control.Register(tunnels=specs), answer=False))

    def _down(
        self,
        link_id: int,
        device_id: int,
        reason: str,
        bytes_in: int,
        bytes_out: int,
        seconds: float,
    ) -> None:
        link = self._links.pop(link_id, None)
        self._engine.routes_apply(self._table.withdraw(link_id))
        if link is None:
            return
        _log.info(
            "link down",
            device=link.device,
            link=link_id,
            reason=reason,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            seconds=round(seconds, 3),
        )
        siblings = self._by_device[link.device_id]
        siblings.remove(link)
        if not siblings:
            del self._by_device[link.device_id]
            self._admission.readmit(link.device_id)
        self._admission.seen(link.device_id)

    def _close(self, link: Link, code: str, message: str) -> None:
        """End a link: no new requests from now on, the agent is told why."""
        if link.is_closing:
            return
        link.is_closing = True
        self._engine.routes_apply(self._table.withdraw(link.id))
        self._engine.link_send(link.id, control.encode(control.Error(code, message)))
        self._engine.link_close(link.id, code)

    # Control records

    def _record(self, link_id: int, data: bytes) -> None:
        link = self._links.get(link_id)
        if link is None or link.is_closing:
            return
        try:
            record = control.decode_from_agent(data)
        except control.BadRecord as error:
            _log.warning(
                "bad control record", device=link.device, code=error.code, error=error.message
            )
            if error.fatal:
                self._close(link, error.code, error.message)
            else:
                self._engine.link_send(
                    link_id, control.encode(control.Error(error.code, error.message))
                )
            return
        if isinstance(record, control.Register):
            self._tasks.spawn(self._register(link, record))
        elif isinstance(record, control.Drain):
            self._engine.routes_apply(self._table.withdraw(link_id))
            self._engine.link_drain(link_id)
            _log.info("device drains", device=link.device, link=link_id)
        else:
            _log.warning(
                "device reports", device=link.device, code=record.code, error=record.message
            )

    async def _register(self, link: Link, record: control.Register, *, answer: bool = True) -> None:
        async with self._queues.setdefault(link.device_id, asyncio.Lock()):
            if not self._is_live(link):
                return
            if len(record.tunnels) > control.TUNNELS_MAX:
                message = f"more than {control.TUNNELS_MAX} tunnels"
                self._engine.link_send(
                    link.id, control.encode(control.Error("bad_record", message))
                )
                return
            link.agent, link.platform = record.agent[:128], record.platform[:128]
            granted, refused = await self._claim(link, record.tunnels)
            if not self._is_live(link):  # gone while the store worked
                return
            self._engine.routes_apply(self._table.serve(link.id, granted))
            self._replace_older(link)
        if answer:
            public = [
                control.PublicTunnel(tunnel.name, tunnel.kind, self._table.url(tunnel))
                for tunnel in granted
            ]
            self._engine.link_send(link.id, control.encode(control.Registered(public, refused)))
        _log.info(
            "tunnels registered",
            device=link.device,
            link=link.id,
            tunnels=",".join(tunnel.name for tunnel in granted),
            refused=",".join(f"{item.name}:{item.code}" for item in refused),
        )

    async def _claim(
        self, link: Link, specs: list[control.TunnelSpec]
    ) -> tuple[list[Tunnel], list[control.RefusedTunnel]]:
        refused = []
        wanted = {}
        for spec in specs:
            reason = name_refusal(spec.name, spec.kind)
            if reason is None:
                wanted[spec.name] = spec.kind
            else:
                refused.append(control.RefusedTunnel(spec.name[:63], *reason))
        try:
            found = await self._store.tunnels_claim(
                list(wanted.items()), link.device_id, self._clock()
            )
        except StorageError as error:
            _log.error("tunnels not registered, the store fails", error=error)
            reason = "store_failed", "the server's store fails; try again later"
            return [], [*refused, *(control.RefusedTunnel(name, *reason) for name in wanted)]
        granted = {tunnel.name: tunnel for tunnel in found if tunnel.device_id == link.device_id}
        reason = "tunnel_taken", "the name belongs to another device"
        refused += [control.RefusedTunnel(x, *reason) for x in wanted if x not in granted]
        return [granted[name] for name in wanted if name in granted], refused

    def _replace_older(self, link: Link) -> None:
        """The newest link of a device wins; its routes have moved already."""
        for other in self.of_device(link.device_id):
            if other is link:
                break
            same = other.instance == link.instance and other.instance != ""
            newer = "a newer link of this agent" if same else "another agent run"
            if not same:
                self._admission.turn_away(link.device_id, other.instance)
            self._close(other, "replaced", f"replaced by {newer} from {link.peer}")

    def _is_live(self, link: Link) -> bool:
        return link.id in self._links and not link.is_closing
