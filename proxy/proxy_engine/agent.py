"""The agent: keeps one link to the server up, and registers its tunnels on it.

    dialling --> up --> registered --+
       ^  |                          | link down, or the server drains
       |  | refused, failed          v
       +--+------- waiting (back-off) <

Only four things end it: a token that is not good (401, 403), a server that is not a
proxy-engine, every tunnel refused, or another run that took over with the same token: two
that fought back would take the link from each other for ever. All else is tried again for
ever. While a server drains, the old link keeps serving until the new one is up.

The engine moves the bytes; here are only decisions, driven by its events. Time, timers,
randomness and name lookups are passed in, so tests need no clock.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

import proxy_engine
from proxy_engine import control, handshake, logs
from proxy_engine.backoff import Backoff
from proxy_engine.errors import UsageError, error_text
from proxy_engine.handshake import Carrier
from proxy_engine.targets import REFRESH_INTERVAL, Resolve, Targets
from proxy_engine.tasks import Tasks
from proxy_engine_core.core import (
    EVENT_CONTROL,
    EVENT_DIAL_FAILED,
    EVENT_LINK_DOWN,
    EVENT_LINK_UP,
    EVENT_TARGET_FAILED,
)
from proxy_engine_core.websocket.handshake import new_key

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Event

DIAL_TIMEOUT_MS = 10_000
REGISTER_TIMEOUT = 15.0  # seconds for the answer to "register"
TARGET_LOG_INTERVAL = 60.0  # seconds between log lines about one failing target
TARGET_CHECK_INTERVAL = 1.0  # seconds between lookups caused by failing targets

_log = logs.get("agent")


class ServerUrl(NamedTuple):
    host: str
    port: int
    authority: str  # for the Host field


def parse_server(url: str) -> ServerUrl:
    """Where --server points. Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f'server "{url}": {error}') from None
    if parts.scheme in ("https", "wss"):
        raise UsageError(f'server "{url}": TLS is not in this version yet; use http:// or ws://')
    if parts.scheme not in ("http", "ws") or not parts.hostname:
        raise UsageError(f'server "{url}" is not a URL such as http://proxy.example.com:8080')
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(f'server "{url}": only scheme, host and port, please')
    if not parts.netloc.isascii() or any(c.isspace() for c in parts.netloc) or port == 0:
        raise UsageError(f'server "{url}" has no usable host and port')
    return ServerUrl(parts.hostname, port or 80, parts.netloc)


class Timer(Protocol):
    def cancel(self) -> None: ...


class Link(NamedTuple):
    id: int
    since: float  # monotonic


class Agent:
    """Implements the picture above for one engine.

    Args:
        announce: called with the public tunnels each time they change.
        call_later: the loop's, or a test's.
        monotonic, wall: clocks, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        server: ServerUrl,
        token: str,
        carrier: Carrier,
        targets: Targets,
        tunnels: list[str],
        resolve: Resolve,
        announce: Callable[[list[control.PublicTunnel]], None],
        call_later: Callable[[float, Callable[[], None]], Timer],
        backoff: Backoff | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._server = server
        self._token = token
        self._carrier = carrier
        self._targets = targets
        self._tunnels = tunnels
        self._resolve = resolve
        self._announce = announce
        self._call_later = call_later
        self._backoff = backoff or Backoff()
        self._monotonic = monotonic
        self._wall = wall
        self._instance = os.urandom(16).hex()
        self._links: dict[int, Link] = {}
        self._current: int | None = None  # the newest link
        self._waiting: Timer | None = None  # for the next dial
        self._dial: tuple[int, str] | None = None  # its id and WebSocket key
        self._is_dialling = False  # waiting, resolving, or dialled
        self._register_timer: Timer | None = None
        self._public: list[control.PublicTunnel] | None = None
        self._last_failure = ""
        self._failed_targets: set[str] = set()  # lately, each looked up again once
        self._target_logged: dict[str, float] = {}  # monotonic
        self._tasks = Tasks()
        self._is_ending = False
        self.failure: list[str] = []  # why it ended by itself, for the user
        self.ended = asyncio.Event()

    # Life

    def start(self) -> None:
        self._tasks.spawn(self._start())

    async def _start(self) -> None:
        await self._targets.refresh()
        self._dial_in(0)
        self._call_later(REFRESH_INTERVAL, self._refresh)

    def _refresh(self) -> None:
        if not self._is_ending:
            self._tasks.spawn(self._targets.refresh())
            self._call_later(REFRESH_INTERVAL, self._refresh)

    def drain(self) -> None:
        """Tell the server to send nothing new, and dial no more."""
        self._is_ending = True
        self._stop_waiting()
        for link in self._links.values():
            self._engine.link_send(link.id, control.encode(control.Drain()))

    async def close(self) -> None:
        self._is_ending = True
        self._stop_waiting()
        await self._tasks.close()

    def _fail(self, *lines: str) -> None:
        """End for good: trying again would give the same answer."""
        if not self._is_ending:
            self._is_ending = True
            self._stop_waiting()
            self.failure = list(lines)
            self.ended.set()

    def _fail_replaced(self, message: str) -> None:
        self._fail(f"{message or 'replaced by another agent run'}; is the token used twice?")

    def on_event(self, event: Event) -> None:
        if self._is_ending:
            return
        if event[0] == EVENT_LINK_UP:
            self._up(event[1], event[4])
        elif event[0] == EVENT_LINK_DOWN:
            self._down(event[1], event[3])
        elif event[0] == EVENT_CONTROL:
            self._record(event[1], event[2])
        elif event[0] == EVENT_DIAL_FAILED:
            self._refused(*event[1:])
        elif event[0] == EVENT_TARGET_FAILED:
            self._target_failed(event[1], event[2])

    # Dialling

    def _dial_in(self, delay: float) -> None:
        self._is_dialling = True
        self._waiting = self._call_later(delay, lambda: self._tasks.spawn(self._dial_now()))

    async def _dial_now(self) -> None:
        self._waiting = None
        server = self._server
        try:
            host = (await self._resolve(server.host, server.port))[0]
        except (OSError, IndexError) as error:
            self._try_again(f"can not find {server.host}: {error_text(error)}")
            return
        if self._is_ending:
            return
        key = new_key() if self._carrier == "websocket" else ""
        request = handshake.request(
            authority=server.authority,
            token=self._token,
            instance=self._instance,
            carrier=self._carrier,
            key=key,
        )
        number = self._engine.dial(
            host, server.port, request, carrier=self._carrier, timeout_ms=DIAL_TIMEOUT_MS
        )
        self._dial = (number, key)

    def _try_again(self, failure: str, retry_after: float | None = None) -> None:
        """Wait and dial; the failure is logged when it is not the same as last time."""
        delay = self._backoff.next(retry_after)
        if failure != self._last_failure:
            self._last_failure = failure
            _log.warning(
                "not connected, trying again", server=self._server.authority, reason=failure
            )
        self._dial_in(delay)

    def _stop_waiting(self) -> None:
        for timer in (self._waiting, self._register_timer):
            if timer is not None:
                timer.cancel()
        self._waiting = self._register_timer = None

    def _refused(
        self, dial: int, reason: str, errno: int, status: int, head: bytes, body: bytes
    ) -> None:
        if self._dial is None or dial != self._dial[0]:
            return
        self._dial = None
        code, message = handshake.refusal_text(body)
        if (status, code) == (409, "replaced"):
            self._fail_replaced(message)
            return
        if status in (401, 403):
            what = message or code or "no reason given"
            self._fail(f"the server refused the token: {what} ({status})")
            return
        if reason == "refused":
            text = f"answered {status} {code}".rstrip() + (f": {message}" if message else "")
        elif reason == "connect":
            text = os.strerror(errno) if errno else "can not connect"
        elif reason == "timeout":
            text = "no answer in time"
        elif reason == "closed":
            text = "it closed the connection"
        else:
            text = f"not a usable HTTP answer ({reason})"
        self._try_again(text, handshake.retry_after(head, self._wall()) if head else None)

    # Links

    def _up(self, link_id: int, head: bytes) -> None:
        if self._dial is None or link_id != self._dial[0]:
            self._engine.link_close(link_id, "unexpected")
            return
        key = self._dial[1]
        self._dial = None
        self._is_dialling = False
        try:
            handshake.check_response(head, carrier=self._carrier, key=key)
        except ValueError as error:
            self._fail(f"{self._server.authority} is not a server for this agent: {error}")
            return
        self._links[link_id] = Link(link_id, self._monotonic())
        self._current = link_id
        register = control.Register(
            tunnels=[control.TunnelSpec(name) for name in self._tunnels],
            agent=f"proxy-engine/{proxy_engine.__version__}",
            platform=f"{platform.system()} {platform.machine()}",
        )
        self._engine.link_send(link_id, control.encode(register))
        self._register_timer = self._call_later(
            REGISTER_TIMEOUT, lambda: self._give_up_register(link_id)
        )

    def _give_up_register(self, link_id: int) -> None:
        self._register_timer = None
        self._engine.link_close(link_id, "register_timeout")

    def _down(self, link_id: int, reason: str) -> None:
        link = self._links.pop(link_id, None)
        if link is None:
            return
        self._backoff.link_ended(self._monotonic() - link.since)
        if link_id != self._current:
            return
        self._current = None
        if self._register_timer is not None:
            self._register_timer.cancel()
            self._register_timer = None
        if not self._is_dialling:
            self._try_again(f"the link ended ({reason or 'closed'})")

    # Control records

    def _record(self, link_id: int, data: bytes) -> None:
        if link_id not in self._links:
            return
        try:
            record = control.decode_from_server(data)
        except control.BadRecord as error:
            _log.warning("bad control record", code=error.code, error=error.message)
            if error.fatal:
                self._engine.link_close(link_id, error.code)
            else:
                answer = control.Error(error.code, error.message)
                self._engine.link_send(link_id, control.encode(answer))
            return
        if isinstance(record, control.Registered):
            self._registered(link_id, record)
        elif isinstance(record, control.Drain):
            self._server_drains(link_id)
        elif link_id == self._current:
            if record.code == "replaced":
                self._fail_replaced(record.message)
                return
            _log.warning("the server reports", code=record.code, error=record.message)

    def _registered(self, link_id: int, record: control.Registered) -> None:
        if link_id != self._current:
            return
        if self._register_timer is not None:
            self._register_timer.cancel()
            self._register_timer = None
        if self._tunnels and not record.tunnels:
            if record.refused and all(item.code == "store_failed" for item in record.refused):
                self._engine.link_close(link_id, "store_failed")
                return
            refused = [f'tunnel "{x.name}" refused: {x.message} ({x.code})' for x in record.refused]
            self._fail(*(refused or ["the server accepted no tunnel"]))
            return
        for item in record.refused:
            _log.warning("tunnel refused", tunnel=item.name, code=item.code, error=item.message)
        self._last_failure = ""
        _log.info("connected", server=self._server.authority, tunnels=len(record.tunnels))
        if record.tunnels != self._public:
            self._public = record.tunnels
            self._announce(record.tunnels)

    def _server_drains(self, link_id: int) -> None:
        if link_id == self._current and not self._is_dialling:
            _log.info("the server drains, dialling again", server=self._server.authority)
            self._dial_in(self._backoff.next())

    # Targets

    def _target_failed(self, tunnel: str, errno: int) -> None:
        if tunnel in self._failed_targets:
            return
        self._failed_targets.add(tunnel)
        now = self._monotonic()
        if now - self._target_logged.get(tunnel, -TARGET_LOG_INTERVAL) >= TARGET_LOG_INTERVAL:
            self._target_logged[tunnel] = now
            _log.warning("target can not be connected", tunnel=tunnel, error=os.strerror(errno))
        self._tasks.spawn(self._targets.refresh())
        # Every failing request says so; one lookup a second is enough.
        self._call_later(TARGET_CHECK_INTERVAL, lambda: self._failed_targets.discard(tunnel))
