"""Who may have a link: requests for one, checked and answered.

Requests wait in a list; one task answers them, up to AUTH_BATCH at once, because after a restart
every device comes back at once. Those that the cache can tell about are answered first; only the
others wait for the store, with another task, and they alone are refused if it fails. The answers
of each kind leave in the order of the requests. The engine goes on with an accepted link by
itself and reports EVENT_LINK_UP; the link table then says who it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxy_engine import failures, handshake, joining, logs, tokens
from proxy_engine.cache import AccessCache
from proxy_engine.errors import StorageError
from proxy_engine.handshake import Offer, Refusal
from proxy_engine.hooks import DeviceConnect, HookError, Refuse
from proxy_engine.hooks.manager import Manager
from proxy_engine.links.devices import Registry
from proxy_engine.links.joined import Joined
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.links.table import LinkTable
from proxy_engine.storage import Device, Token
from proxy_engine.tasks import Tasks
from proxy_engine.tls import certificate_names
from proxy_engine.tunnels.routes import TunnelTable
from proxy_engine_core.core import parse_request_head

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine

# Requests for links looked up at once. The answers go to the engine in one burst, and a burst is
# what visitors wait for.
AUTH_BATCH = 64
CHALLENGE = {"WWW-Authenticate": "Bearer"}
RETRY_AFTER = "2"  # seconds a refused agent waits at least, while we drain or the store fails

_log = logs.get("links")


class Ask(NamedTuple):
    """A request for a link: EVENT_AUTH."""

    ticket: int
    peer: str
    head: bytes
    certificate: tuple[str, ...] = ()  # names of the one it has shown


class _Request(NamedTuple):
    method: str
    target: str
    fields: list[tuple[str, bytes]]
    secret: str


class Admission:
    def __init__(
        self,
        engine: Engine,
        links: LinkTable,
        tasks: Tasks,
        *,
        registry: Registry,
        cache: AccessCache,
        guard: LoginGuard,
        table: TunnelTable,
        pool: int,
        joined: Joined,
        hooks: Manager,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        needs_certificate: Callable[[], bool] = lambda: False,
    ) -> None:
        """Args:
        needs_certificate: whether every device has to show one.
        """
        self._needs_certificate = needs_certificate
        self._engine = engine
        self._registry = registry
        self._links = links
        self._tasks = tasks
        self._cache = cache
        self._guard = guard
        self._table = table
        self._pool = pool  # idle direct connections a link may have
        self._joined = joined
        self._hooks = hooks
        self._clock = clock
        self._monotonic = monotonic
        self._asking: list[Ask] = []  # not looked at yet
        self._is_answering = False
        self._unknown: list[tuple[Ask, _Request]] = []  # the store has to be asked about them
        self._is_looking_up = False
        self._replaced: dict[int, set[str]] = {}  # instances turned away, by device
        self.is_draining = False

    def ask(self, ask: Ask) -> None:
        self._asking.append(ask)
        if not self._is_answering:
            self._is_answering = True
            self._tasks.spawn(self._answer_all())

    def turn_away(self, device_id: int, instance: str) -> None:
        """Another run took over from this one. It is told so, but the record may not reach
        it, and it must not take the link back."""
        if instance:
            self._replaced.setdefault(device_id, set()).add(instance)

    def is_turned_away(self, device_id: int, instance: str) -> bool:
        return instance in self._replaced.get(device_id, ())

    def readmit(self, device_id: int) -> None:
        """The device has no link any more: any run of it may come."""
        self._replaced.pop(device_id, None)

    async def _answer_all(self) -> None:
        """Answer all who ask, or put them with those the store is asked about."""
        try:
            while self._asking:
                batch = self._asking[:AUTH_BATCH]
                del self._asking[:AUTH_BATCH]
                await self._answer(batch)
        finally:
            self._is_answering = False

    async def _answer(self, batch: list[Ask]) -> None:
        read: list[tuple[Ask, _Request]] = []
        for ask in batch:
            try:
                read.append((ask, self._read(ask)))
            except Refusal as refusal:
                self._refuse(ask, refusal)
        known: list[tuple[Ask, _Request]] = []
        for each in read:
            (known if self._is_known(each[1]) else self._unknown).append(each)
        if known:
            await self._admit(known)
        if self._unknown and not self._is_looking_up:
            self._is_looking_up = True
            self._tasks.spawn(self._look_up())

    def _is_known(self, request: _Request) -> bool:
        name = handshake.device_name(request.fields)
        return self._cache.can_tell(tokens.digest(request.secret), name)

    async def _look_up(self) -> None:
        """Answer those that the store has to be asked about, many with each look."""
        try:
            while self._unknown:
                batch = self._unknown[:AUTH_BATCH]
                del self._unknown[:AUTH_BATCH]
                await self._admit(batch)
        finally:
            self._is_looking_up = False

    async def _admit(self, read: list[tuple[Ask, _Request]]) -> None:
        left = [ask for ask, _ in read]
        version = self._cache.version
        try:
            found = await tokens.find_all(self._cache, [request.secret for _, request in read])
            if version != self._cache.version:
                await self._admit(read)  # somebody wrote: who joins is not looked at again
                return
            authorised: list[tuple[Ask, _Request, Token]] = []
            for ask, request in read:
                try:
                    if request.target.startswith(joining.PATH):
                        self._join(ask, request, found.get(request.secret))
                        continue
                    token = self._authorise(ask, request, found.get(request.secret))
                    authorised.append((ask, request, token))
                except Refusal as refusal:
                    self._refuse(ask, refusal)
            left = [ask for ask, _, _ in authorised]
            named = [token for _, _, token in authorised if token.device_id is None]
            claims = {token.device: token.id for token in named if token.device is not None}
            devices = await self._cache.devices(claims, self._clock())
        except StorageError as error:
            failures.error(
                _log,
                "store",
                "links",
                "links refused, the store fails",
                count=len(left),
                error=error,
            )
            later = Refusal(503, "store_failed", "try again later", {"Retry-After": RETRY_AFTER})
            for ask in left:
                self._refuse(ask, later)
            return
        for ask, request, token in authorised:
            try:
                self._accept(ask, request, token, devices.get(token.device or ""), version)
            except Refusal as refusal:
                self._refuse(ask, refusal)

    def _read(self, ask: Ask) -> _Request:
        """What needs no store. Raises Refusal."""
        try:
            method, target, fields = parse_request_head(ask.head)
        except ValueError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        self._check_draining()
        credentials = [value for name, value in fields if name == "authorization"]
        secret = tokens.bearer(credentials[0]) if len(credentials) == 1 else None
        if secret is None:
            raise Refusal(401, "no_token", "send Authorization: Bearer TOKEN", CHALLENGE)
        if not self._cache.is_familiar(tokens.digest(secret)):
            wait = self._guard.wait(ask.peer, self._monotonic())
            if wait:
                message = "too many failed logins from this address"
                retry = {"Retry-After": str(math.ceil(wait))}
                raise Refusal(429, "too_many_logins", message, retry)
        return _Request(method, target, fields, secret)

    def _check_draining(self) -> None:
        if self.is_draining:
            raise Refusal(
                503, "draining", "the server is shutting down", {"Retry-After": RETRY_AFTER}
            )

    def _join(self, ask: Ask, request: _Request, token: Token | None) -> None:
        """Let a client of a private tunnel in, or raise Refusal."""
        token = self._known(ask, token)
        device, tunnel = joining.read_request(request.method, request.target, request.fields)
        joining.authorise(token, device, tunnel)
        joining.find(self._table, self._links, device, tunnel)
        self._registry.token_used(token.id)
        self._engine.auth_reply(
            ask.ticket, joining.ACCEPT, accept=True, tunnel=tunnel, quota=self._joined.key(token)
        )
        _log.info("tunnel joined", peer=ask.peer, token=token.name, tunnel=f"{device}/{tunnel}")

    def _known(self, ask: Ask, token: Token | None) -> Token:
        """The token, if it is good. Raises Refusal."""
        code = tokens.refusal(token, self._clock())
        if code is not None or token is None:
            message = {
                "expired_token": "the token has expired",
                "revoked_token": "the token was revoked",
            }.get(code or "", "the token is not known here")
            self._guard.fail(ask.peer, self._monotonic())
            raise Refusal(401, code or "unknown_token", message, CHALLENGE)
        return token

    def _authorise(self, ask: Ask, request: _Request, token: Token | None) -> Token:
        """The token, with the name of the device that came with it. Raises Refusal."""
        token = self._known(ask, token)
        if token.kind != "device":
            raise Refusal(403, "wrong_kind", "this is an admin token; links need a device token")
        name = handshake.device_name(request.fields)
        if token.device_id is not None:
            if name and name != token.device:
                raise Refusal(403, "wrong_device", f"this is the token of {token.device}")
            return token
        if not name:
            raise Refusal(403, "no_device", "a token for several devices: give --device NAME")
        if not tokens.is_name(name) or not token.scopes.allows_device(name):
            raise Refusal(403, "wrong_device", "the token does not allow this device name")
        return msgspec.structs.replace(token, device=name)

    def _accept(
        self, ask: Ask, request: _Request, token: Token, device: Device | None, version: int
    ) -> None:
        """Let the device in, or raise Refusal.

        Args:
            device: the one that the token allows, if it is not the device's own.
            version: of the cache, before it was asked for them.
        """
        offer = handshake.read_request(request.method, request.target, request.fields)
        if device is not None:
            token = msgspec.structs.replace(
                token,
                device_id=device.id,
                device=device.name,
                is_blocked=device.is_blocked,
                certificate_names=device.certificate_names,
            )
        if token.is_blocked or token.device_id is None:
            raise Refusal(403, "blocked_device", "this device is blocked")
        wrong = certificate_names.refusal(
            token.device or "",
            token.certificate_names,
            ask.certificate,
            is_required=self._needs_certificate(),
        )
        if wrong is not None:
            raise Refusal(403, *wrong)
        if self._hooks.wants("on_device_connect"):
            self._tasks.spawn(self._ask_hooks(ask, offer, token, token.device_id, version))
        else:
            self._let_in(ask, offer, token, token.device_id, version)

    async def _ask_hooks(
        self, ask: Ask, offer: Offer, token: Token, device_id: int, version: int
    ) -> None:
        """Let the device in if no hook minds. Each is asked in a task of its own: others need not
        wait for the hooks of one."""
        event = DeviceConnect(
            at=self._clock(),
            device=token.device or str(device_id),
            device_id=device_id,
            token=token.name,
            token_id=token.id,
            peer=ask.peer,
            address=ask.peer.rpartition(":")[0].strip("[]"),
            certificate=ask.certificate,
            number=offer.number,
            links=len(self._links.of_device(device_id)),
        )
        try:
            await self._hooks.ask("on_device_connect", event)
            self._check_draining()
            self._let_in(ask, offer, token, device_id, version)
        except Refuse as error:
            if error.retry_after is None:
                self._refuse(ask, Refusal(403, "hook_refused", str(error)))
            else:
                retry = {"Retry-After": str(math.ceil(max(0, error.retry_after)))}
                self._refuse(ask, Refusal(503, "hook_later", str(error), retry))
        except HookError:  # which is logged; agents need not know whose hooks there are
            message = "the server can not tell now whether this device may connect"
            retry = {"Retry-After": RETRY_AFTER}
            self._refuse(ask, Refusal(503, "hook_failed", message, retry))
        except Refusal as refusal:
            self._refuse(ask, refusal)

    def _let_in(self, ask: Ask, offer: Offer, token: Token, device_id: int, version: int) -> None:
        """Raises Refusal for one link too many."""
        if self.is_turned_away(device_id, offer.instance):
            raise Refusal(409, "replaced", "replaced by another agent run")
        now = self._clock()
        # A device that has gone meanwhile never comes up: tick() forgets it.
        link = self._links.accept(
            device_id, token, offer, ask.peer, now, certificate=ask.certificate
        )
        link.version = version
        self._registry.token_used(token.id)
        direct = min(offer.direct, self._pool)
        self._engine.auth_reply(
            ask.ticket,
            handshake.accept_response(offer, self._links.links_max, direct),
            accept=True,
            device=device_id,
            carrier=offer.carrier,
            window=offer.window,
            streams_max=(handshake.STREAMS_MAX if offer.is_agent else handshake.STOCK_STREAMS_MAX),
            preamble=offer.is_agent,
            direct=direct,
            worker=link.worker,
            quota=token.id,
            limits=token.limits.shared,
        )

    def _refuse(self, ask: Ask, refusal: Refusal) -> None:
        log = _log.debug if refusal.code == "too_many_logins" else _log.info  # counted instead
        log("link refused", peer=ask.peer, status=refusal.status, code=refusal.code)
        self._engine.auth_reply(ask.ticket, refusal.response(), accept=False)
