"""One of the agent's links, kept up: dialled, registered, and dialled again when it ends.

    parked --> dialling --> up --> registered --+
                ^  |                            | link down, or the server drains
                |  | refused, failed            v
                +--+---------- waiting (back-off) --> parked, if the agent says so

    up, registered -- retire() --> parked; the server closes the link after its last request

While a server drains, the old link keeps serving until the new one is up, so a keeper may
have links besides its current one for a while.

Decisions that concern the whole agent are the owner's (agent.py): whether to dial at all,
and what ends the program.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from proxy_engine import control, handshake, logs
from proxy_engine.agent.announced import Announced
from proxy_engine.agent.backoff import Backoff
from proxy_engine.agent.servers import Servers
from proxy_engine.errors import AuthError, ConnectError, error_text
from proxy_engine.handshake import Carrier
from proxy_engine.tasks import Tasks
from proxy_engine_core.websocket.handshake import new_key

if TYPE_CHECKING:
    from proxy_engine.agent.reach import Reach
    from proxy_engine.agent.servers import ServerUrl
    from proxy_engine.errors import TunnelError
    from proxy_engine_core.core import Engine, TlsClient

DIAL_TIMEOUT_MS = 10_000
REGISTER_TIMEOUT = 15.0  # seconds for the answer to "register"

_log = logs.get("agent")


class Timer(Protocol):
    def cancel(self) -> None: ...


class Run(NamedTuple):
    """What all links of one run of the agent have in common."""

    engine: Engine
    servers: Servers
    token: Callable[[], str]  # the one to show now
    device: str  # its name; "" where the token says it
    instance: str
    announced: Announced
    reach: Reach
    tls: Callable[[ServerUrl], TlsClient | None]
    call_later: Callable[[float, Callable[[], None]], Timer]
    monotonic: Callable[[], float]
    wall: Callable[[], float]
    tasks: Tasks
    pool: int  # idle direct connections of a link at most; 0: none


class Owner(Protocol):
    def may_dial(self, keeper: LinkKeeper) -> bool:
        """Whether this link is wanted now."""

    def link_offered(self, links: int) -> None:
        """The server lets a run have this many links."""

    def link_registered(self, keeper: LinkKeeper, record: control.Registered, version: int) -> str:
        """The link has its answer to the tunnels of this version. Returns why it is of no use,
        usually ""."""

    def links_wanted(self, links: int) -> None:
        """The server wants this many links of the run."""

    def configure(self, link_id: int, record: control.Configure) -> None:
        """The server wants something else of a tunnel, and an answer on this link."""

    def try_next(self, *, may_be_carrier: bool) -> bool:
        """Go on to another server or carrier; whether one was not tried yet."""

    def link_lost(self, keeper: LinkKeeper) -> None:
        """The link serves no more, or drains."""

    def fail(self, *errors: ConnectError | TunnelError) -> None:
        """End for good: trying again would give the same answer."""

    def fail_replaced(self, message: str) -> None: ...
    def told(self, record: control.Error) -> None:
        """The server reports something."""

    def report(self, keeper: LinkKeeper, failure: ConnectError) -> None:
        """A failure that differs from the one before; the link is tried again."""


class LinkKeeper:
    """Keeps the link with this number up, from start() to stop()."""

    def __init__(self, run: Run, number: int, owner: Owner, backoff: Backoff) -> None:
        self.number = number
        self.is_serving = False  # its tunnels are registered, and nobody drains
        self._run = run
        self._owner = owner
        self._backoff = backoff
        self._links: dict[int, float] = {}  # those up, and since when (monotonic)
        self._current: int | None = None  # the newest link
        self._is_draining = False  # the current one is
        self._is_dialling = False  # waiting, resolving, or dialled
        self._waiting: Timer | None = None  # for the next dial
        self._dial: tuple[int, str] | None = None  # its id and WebSocket key
        self._carrier: Carrier = "raw"  # of the last dial
        self._token = ""  # the same
        self.has_answer = False  # the current link has been of use
        self._asked: deque[int] = deque()  # versions it has no answer to yet, in order
        self._version = 0  # the last that it has one to
        self._register_timer: Timer | None = None
        self._answer = control.Registered()  # to "register", so far
        self._last_failure = ""

    def start(self, delay: float | None = None) -> None:
        """See to it that there is a link; dial after this many seconds, or the back-off."""
        if not self._is_dialling and (self._current is None or self._is_draining):
            self._dial_in(self._backoff.next() if delay is None else delay)

    def park(self) -> None:
        """Do not dial until start(); what is up stays up, what is dialled already counts."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
            self._is_dialling = False

    def retire(self) -> None:
        """Do without the link until start(); what is under way on it may finish."""
        self.park()
        if self._current is not None:
            self._stop_register_timer()
            if not self._is_draining:
                self._say_drain(self._current)
            self._current = None
            self._is_draining = self.is_serving = False

    def stop(self) -> None:
        self.park()
        self._stop_register_timer()

    def drain(self) -> None:
        """Ask the server to send nothing new."""
        for link_id in self._links:
            self._say_drain(link_id)

    def _say_drain(self, link_id: int) -> None:
        self._run.engine.link_send(link_id, control.encode(control.Drain()))

    def owns(self, link_id: int) -> bool:
        """Whether a link or a dial is this keeper's."""
        return link_id in self._links or (self._dial is not None and self._dial[0] == link_id)

    # Dialling

    def _dial_in(self, delay: float) -> None:
        self._is_dialling = True
        self._waiting = self._run.call_later(delay, self._dial_soon)

    def _dial_soon(self) -> None:
        self._waiting = None
        self._run.tasks.spawn(self._dial_now())

    async def _dial_now(self) -> None:
        run, server = self._run, self._run.servers.server
        try:
            reached = await run.reach(server)
        except OSError as error:
            self._try_again(error_text(error), reason="connect", is_server=True)
            return
        if not self._owner.may_dial(self):
            if reached.fd >= 0:
                os.close(reached.fd)
            self._is_dialling = False
            return
        carrier = self._carrier = run.servers.carrier
        key = new_key() if carrier == "websocket" else ""
        tls = run.tls(server)
        # Direct connections are dialled like the link, which past a proxy they can not be, and
        # are not for what TLS should hide.
        pool = 0 if reached.is_proxied or tls is not None else run.pool
        token = self._token = run.token()
        request = handshake.request(
            authority=server.authority,
            token=token,
            instance=run.instance,
            number=self.number,
            carrier=carrier,
            key=key,
            device=run.device,
            direct=pool,
        )
        dial = run.engine.dial(
            reached.host,
            reached.port,
            request,
            carrier=carrier,
            timeout_ms=DIAL_TIMEOUT_MS,
            worker=(self.number - 1) % run.engine.workers,
            fd=reached.fd,
            tls=tls,
            direct=handshake.data_request(server.authority) if pool else b"",
        )
        self._dial = (dial, key)

    def _try_again(
        self,
        failure: str,
        retry_after: float | None = None,
        *,
        reason: str = "",
        is_server: bool = False,
        may_be_carrier: bool = False,
    ) -> None:
        """Wait and dial; the failure is reported when it is not the same as last time.

        Args:
            is_server: another server may do better; it is tried at once.
            may_be_carrier: ... or another carrier.
        """
        self._is_dialling = False
        if not self._owner.may_dial(self):
            return
        if failure != self._last_failure:
            self._last_failure = failure
            self._owner.report(self, ConnectError(failure, reason=reason))
        if (is_server or may_be_carrier) and self._owner.try_next(may_be_carrier=may_be_carrier):
            self._dial_in(0)
        else:
            self._dial_in(self._backoff.next(retry_after))

    def refused(self, reason: str, errno: int, status: int, head: bytes, body: bytes) -> None:
        """EVENT_DIAL_FAILED for a dial of this keeper."""
        self._dial = None
        code, message = handshake.refusal_text(body)
        if (status, code) == (409, "replaced"):
            self._owner.fail_replaced(message)
            return
        # Our server gives a code; without one, somebody on the way has answered.
        may_be_carrier = reason in ("closed", "bad_response", "timeout") or (
            reason == "refused" and not code
        )
        has_other = may_be_carrier and self._run.servers.has_other_carrier
        if status in (401, 403) and not has_other:
            if self._run.token() != self._token:
                self._try_again("the token was refused, there is another by now", reason=code)
                return
            what = message or code or "no reason given"
            is_device = "certificate" in code or code == "hook_refused"
            subject = "this device" if is_device else "the token"
            self._owner.fail(
                AuthError(f"the server refused {subject}: {what} ({status})", reason=code)
            )
            return
        if status == 409 and self.number > 1:  # not this one, and asking again changes nothing
            self._is_dialling = False
            self._owner.report(self, ConnectError(message or code, reason=code, fault="theirs"))
            return
        if reason == "refused":
            text = f"answered {status} {code}".rstrip() + (f": {message}" if message else "")
        elif reason == "tls":
            text = body.decode("utf-8", "replace") or "TLS failed"
        elif reason == "connect":
            text = os.strerror(errno) if errno else "can not connect"
        elif reason == "timeout":
            text = "no answer in time"
        elif reason == "closed":
            text = "it closed the connection"
        else:
            text = f"not a usable HTTP answer ({reason})"
        retry_after = handshake.retry_after(head, self._run.wall()) if head else None
        self._try_again(
            text,
            retry_after,
            reason=code or reason,
            is_server=True,
            may_be_carrier=may_be_carrier,
        )

    # The link

    def up(self, link_id: int, head: bytes) -> None:
        """EVENT_LINK_UP for the dial of this keeper; head is the 101."""
        run = self._run
        assert self._dial is not None
        key = self._dial[1]
        self._dial = None
        self._is_dialling = False
        try:
            links = handshake.check_response(head, carrier=self._carrier, key=key)
        except ValueError as error:
            text = f"{run.servers.server.authority} is not a server for this agent: {error}"
            self._owner.fail(
                ConnectError(text, reason="bad_response", fault="theirs", retryable=False)
            )
            return
        self._links[link_id] = run.monotonic()
        self._current = link_id
        self._is_draining = self.has_answer = False
        self._owner.link_offered(links)
        self._answer = control.Registered()
        self._asked.clear()
        self.register()

    def register(self) -> None:
        """Say what the tunnels are, if there is a link that serves or is about to."""
        run, link_id = self._run, self._current
        if link_id is None or self._is_draining:
            return
        for record in run.announced.records:
            run.engine.link_send(link_id, record)
        self._asked.append(run.announced.version)
        self._stop_register_timer()
        self._register_timer = run.call_later(
            REGISTER_TIMEOUT, lambda: self._give_up_register(link_id)
        )

    def _give_up_register(self, link_id: int) -> None:
        self._register_timer = None
        self._run.engine.link_close(link_id, "register_timeout")

    def _stop_register_timer(self) -> None:
        if self._register_timer is not None:
            self._register_timer.cancel()
            self._register_timer = None

    def down(self, link_id: int, reason: str) -> None:
        """EVENT_LINK_DOWN for a link of this keeper."""
        self._backoff.link_ended(self._run.monotonic() - self._links.pop(link_id))
        if link_id != self._current:
            return
        self._current = None
        self._is_draining = self.is_serving = False
        self._stop_register_timer()
        self._owner.link_lost(self)
        if not self._is_dialling:
            # One that never was of use may be none for what is on the way.
            self._try_again(
                f"the link ended ({reason or 'closed'})",
                reason=reason or "closed",
                is_server=not self.has_answer,
                may_be_carrier=not self.has_answer,
            )

    # Control records

    def record(self, link_id: int, data: bytes) -> None:
        """EVENT_CONTROL for a link of this keeper."""
        engine = self._run.engine
        try:
            record = control.decode_from_server(data)
        except control.BadRecord as error:
            _log.warning("bad control record", code=error.code, error=error.message)
            if error.fatal:
                engine.link_close(link_id, error.code)
            else:
                engine.link_send(link_id, control.encode(control.Error(error.code, error.message)))
            return
        if link_id != self._current:
            return  # a newer link of ours has taken over
        if isinstance(record, control.Registered):
            self._registered(link_id, record)
        elif isinstance(record, control.Drain):
            self._server_drains()
        elif isinstance(record, control.Links):
            self._owner.links_wanted(record.wanted)
        elif isinstance(record, control.Configure):
            self._owner.configure(link_id, record)
        elif record.code == "replaced":
            self._owner.fail_replaced(record.message)
        else:
            self._owner.told(record)

    def _registered(self, link_id: int, part: control.Registered) -> None:
        record = control.Registered(
            self._answer.tunnels + part.tunnels, self._answer.refused + part.refused
        )
        self._answer = record if part.more else control.Registered()
        if part.more:
            return
        if self._asked:
            self._version = self._asked.popleft()
        if not self._asked:
            self._stop_register_timer()
        self.is_serving = not self._is_draining
        reason = self._owner.link_registered(self, record, self._version)
        if reason:
            self.is_serving = False
            self._run.engine.link_close(link_id, reason)
            return
        self._last_failure = ""
        self.has_answer = True
        self._run.servers.worked(self._carrier)

    def _server_drains(self) -> None:
        if self._is_draining:
            return
        self._is_draining = True
        self.is_serving = False
        self._owner.link_lost(self)
        if not self._is_dialling and self._owner.may_dial(self):
            _log.info(
                "the server drains, dialling again", server=self._run.servers.server.authority
            )
            self._dial_in(self._backoff.next())
