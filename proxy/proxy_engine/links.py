"""Device links on the server: who may have one, what it serves, when it ends.

The life of a link:

    EVENT_AUTH     the request is checked (token, device, upgrade) and answered; the engine
                   goes on with the session by itself
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
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from proxy_engine import control, handshake, logs, tokens
from proxy_engine.errors import StorageError
from proxy_engine.handshake import Offer, Refusal
from proxy_engine.storage import NameTaken, Store, Token, Tunnel
from proxy_engine.tunnels import TunnelTable, name_refusal
from proxy_engine_core.core import (
    EVENT_AUTH,
    EVENT_CONTROL,
    EVENT_LINK_DOWN,
    EVENT_LINK_UP,
    parse_request_head,
)

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Event

TOUCH_INTERVAL = 60.0  # seconds between writes of a token's last use
LINK_UP_TIMEOUT = 30.0  # seconds from our answer to EVENT_LINK_UP; it is usually at once
RETRY_AFTER = "2"  # seconds a refused agent waits at least, while we drain or the store fails

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


class _Accepted(msgspec.Struct, eq=False):
    token: Token
    offer: Offer
    at: float


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
        self._links: dict[int, Link] = {}
        self._accepted: dict[tuple[int, str], _Accepted] = {}  # by device and peer
        self._queues: dict[int, asyncio.Lock] = {}  # by device
        # Instances that another one took over from, by device, while that one is here.
        self._replaced: dict[int, set[str]] = {}
        self._touched: dict[int, float] = {}  # token id -> when its last use was written
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._links)

    def of_device(self, device_id: int) -> list[Link]:
        return [link for link in self._links.values() if link.device_id == device_id]

    def on_event(self, event: Event) -> None:
        if event[0] == EVENT_AUTH:
            self._spawn(self._authorise(*event[1:]))
        elif event[0] == EVENT_LINK_UP:
            self._up(*event[1:])
        elif event[0] == EVENT_CONTROL:
            self._record(*event[1:])
        elif event[0] == EVENT_LINK_DOWN:
            self._down(*event[1:])

    def drain(self) -> None:
        """Refuse new links and tell the present ones to look elsewhere."""
        self.is_draining = True
        for link in self._links.values():
            self._engine.link_send(link.id, control.encode(control.Drain()))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def recheck(self) -> None:
        """Close links whose token or device is not good any more."""
        live = {token.id: token for token in await self._store.tokens()}
        blocked = {device.id for device in await self._store.devices() if device.is_blocked}
        now = self._clock()
        for link in list(self._links.values()):
            reason = tokens.refusal(live.get(link.token.id), now)
            if link.device_id in blocked:
                reason = "blocked_device"
            if reason is not None:
                self._close(link, reason, "the server took back this device's permission")

    def expire(self) -> None:
        """Close links whose token has expired, forget devices that never came."""
        now = self._clock()
        for key, accepted in list(self._accepted.items()):
            if now - accepted.at > LINK_UP_TIMEOUT:
                del self._accepted[key]
        for link in list(self._links.values()):
            if link.token.expires_at is not None and link.token.expires_at <= now:
                self._close(link, "expired_token", "the token has expired")

    # Handshake

    async def _authorise(self, ticket: int, peer: str, head: bytes) -> None:
        try:
            token, device_id, offer = await self._check(head)
        except Refusal as refusal:
            _log.info("link refused", peer=peer, status=refusal.status, code=refusal.code)
            self._engine.auth_reply(ticket, refusal.response(), accept=False)
            return
        except StorageError as error:
            _log.error("link refused, the store fails", peer=peer, error=error)
            later = Refusal(503, "store_failed", "try again later", {"Retry-After": RETRY_AFTER})
            self._engine.auth_reply(ticket, later.response(), accept=False)
            return
        self._accepted[device_id, peer] = _Accepted(token, offer, self._clock())
        # A device that has gone meanwhile never comes up: expire() forgets it.
        self._engine.auth_reply(
            ticket,
            handshake.accept_response(offer),
            accept=True,
            device=device_id,
            carrier=offer.carrier,
            window=offer.window,
            streams_max=(handshake.STREAMS_MAX if offer.is_agent else handshake.STOCK_STREAMS_MAX),
            preamble=offer.is_agent,
        )
        await self._touch(token)

    async def _check(self, head: bytes) -> tuple[Token, int, Offer]:
        try:
            method, target, fields = parse_request_head(head)
        except ValueError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        if self.is_draining:
            raise Refusal(
                503, "draining", "the server is shutting down", {"Retry-After": RETRY_AFTER}
            )
        credentials = [value for name, value in fields if name == "authorization"]
        secret = tokens.bearer(credentials[0]) if len(credentials) == 1 else None
        challenge = {"WWW-Authenticate": "Bearer"}
        if secret is None:
            raise Refusal(401, "no_token", "send Authorization: Bearer TOKEN", challenge)
        token = await tokens.find(self._store, secret)
        code = tokens.refusal(token, self._clock())
        if code is not None or token is None:
            message = {
                "expired_token": "the token has expired",
                "revoked_token": "the token was revoked",
            }.get(code or "", "the token is not known here")
            raise Refusal(401, code or "unknown_token", message, challenge)
        if token.kind != "device" or token.device_id is None:
            raise Refusal(403, "wrong_kind", "this is an admin token; links need a device token")
        device = await self._store.device(token.device_id)
        if device is None or device.is_blocked:
            raise Refusal(403, "blocked_device", "this device is blocked")
        offer = handshake.read_request(method, target, fields)
        if offer.instance in self._replaced.get(token.device_id, ()):
            # It was told so, but the record may not have reached it.
            raise Refusal(409, "replaced", "replaced by another agent run")
        return token, token.device_id, offer

    async def _touch(self, token: Token) -> None:
        now = self._clock()
        if now - self._touched.get(token.id, -TOUCH_INTERVAL) < TOUCH_INTERVAL:
            return
        self._touched[token.id] = now
        try:
            await self._store.token_used(token.id, now)
        except StorageError as error:
            _log.warning("last use of a token not written", token=token.name, error=error)

    # Up and down

    def _up(self, link_id: int, device_id: int, peer: str, head: bytes) -> None:
        accepted = self._accepted.pop((device_id, peer), None)
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
        _log.info("link up", device=link.device, link=link_id, peer=peer)
        if self.is_draining:
            self._engine.link_send(link_id, control.encode(control.Drain()))
        if not link.is_agent:
            specs = [control.TunnelSpec(name=link.device.lower())]
            self._spawn(self._register(link, control.Register(tunnels=specs), answer=False))

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
        if not self.of_device(link.device_id):
            self._replaced.pop(link.device_id, None)
        _log.info(
            "link down",
            device=link.device,
            link=link_id,
            reason=reason,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            seconds=round(seconds, 3),
        )
        self._spawn(self._seen(link))

    async def _seen(self, link: Link) -> None:
        try:
            await self._store.device_seen(link.device_id, self._clock())
        except StorageError as error:
            _log.warning("last sight of a device not written", device=link.device, error=error)

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
            self._spawn(self._register(link, record))
        elif isinstance(record, control.Drain):
            _log.info("device drains", device=link.device, link=link_id)
            self._engine.routes_apply(self._table.withdraw(link_id))
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
        granted: dict[int, Tunnel] = {}
        refused = []
        for spec in specs:
            reason = name_refusal(spec.name, spec.kind)
            if reason is None:
                try:
                    tunnel = await self._store.tunnel_claim(
                        spec.name, spec.kind, link.device_id, self._clock()
                    )
                    granted[tunnel.id] = tunnel
                except NameTaken:
                    reason = "tunnel_taken", "the name belongs to another device"
                except StorageError as error:
                    _log.error("tunnel not registered, the store fails", error=error)
                    reason = "store_failed", "the server's store fails; try again later"
            if reason is not None:
                refused.append(control.RefusedTunnel(spec.name[:63], *reason))
        return list(granted.values()), refused

    def _replace_older(self, link: Link) -> None:
        """The newest link of a device wins; its routes have moved already."""
        for other in self.of_device(link.device_id):  # in the order they came up
            if other is link:
                break
            same = other.instance == link.instance and other.instance != ""
            if not same and other.instance:
                self._replaced.setdefault(link.device_id, set()).add(other.instance)
            newer = "a newer link of this agent" if same else "another agent run"
            self._close(other, "replaced", f"replaced by {newer} from {link.peer}")

    def _is_live(self, link: Link) -> bool:
        return link.id in self._links and not link.is_closing

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _guard(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            _log.exception("task failed", error)
