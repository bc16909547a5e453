"""The agent: keeps its links to the server up, with its tunnels registered on them.

A run may have as many links as the server offers, so that all workers of the server and all
of its cores serve this device. Most devices are idle and need one: the server knows how busy
its workers are and tells when it wants another, or fewer again; ten thousand idle devices are
ten thousand links. While no link serves, only the first is dialled. A lost link of several
is dialled again while the others go on. link_keeper.py keeps one link up.

Only four things end an agent: a token that is not good (401, 403), a server that is not a
proxy-engine, every tunnel refused, or another run that took over with the same token: two
that fought back would take the links from each other for ever. All else is tried again for
ever.

The engine moves the bytes; here are only decisions, driven by its events. Time, timers,
randomness and name lookups are passed in, so tests need no clock.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import proxy_engine
from proxy_engine import control, logs
from proxy_engine.agent.announced import Announced
from proxy_engine.agent.backoff import Backoff
from proxy_engine.agent.link_keeper import LinkKeeper, Run, Timer
from proxy_engine.agent.reach import Reach
from proxy_engine.agent.servers import Servers, ServerUrl
from proxy_engine.agent.targets import REFRESH_INTERVAL, NotTaken, Targets
from proxy_engine.errors import (
    ConnectError,
    NameTakenError,
    RefusedError,
    ReplacedError,
    TunnelError,
)
from proxy_engine.settings.config import LINKS_MAX
from proxy_engine.tasks import Tasks
from proxy_engine.values import POOL_MAX, parse_address
from proxy_engine_core.core import (
    EVENT_CONTROL,
    EVENT_DIAL_FAILED,
    EVENT_LINK_DOWN,
    EVENT_LINK_UP,
    EVENT_TARGET_FAILED,
)

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Event, TlsClient

TARGET_LOG_INTERVAL = 60.0  # seconds between log lines about one failing target
TARGET_CHECK_INTERVAL = 1.0  # seconds between lookups caused by failing targets
PASSING = ("store_failed", "hook_failed", "hook_later")  # refusals of tunnels that may not be later

_log = logs.get("agent")


class Watch:
    """Is told how it goes; this one does nothing about it."""

    def answered(
        self, version: int, tunnels: list[control.PublicTunnel], refused: dict[str, RefusedError]
    ) -> None:
        """A link has registered the tunnels of this version of serve(), 1 being those of the
        beginning: each is in one of the two."""

    def trying(self, error: ConnectError) -> None:
        """There is no link, for a reason other than before; it is tried again."""

    def told(self, code: str, message: str, tunnel: str) -> None:
        """The server reports something, perhaps of a tunnel."""

    def lost(self) -> None:
        """No link serves any more; it is tried again."""

    def ended(self, error: ConnectError | TunnelError) -> None:
        """It will not be tried again."""


class Agent:
    """Implements the above for one engine.

    Args:
        pool: idle direct connections of a link at most. The server asks for them when there is a
            TCP tunnel, which may be later.
        token: the one to show now, asked for each time it is.
        links_max: links wanted at most; 0: as many as the server offers.
        is_configurable: the server may change targets, within those that are allowed.
        announce: called with the public tunnels each time they change.
        watch: is told the rest.
        is_dynamic: tunnels come and go by serve(): one that is refused is no reason to end, nor
            is it for others that have been given other tunnels.
        call_later: the loop's, or a test's.
        backoff: makes one for each link.
        monotonic, wall: clocks, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        servers: Servers,
        token: Callable[[], str],
        targets: Targets,
        tunnels: list[control.TunnelSpec],
        reach: Reach,
        watch: Watch | None = None,
        is_dynamic: bool = False,
        tls: Callable[[ServerUrl], TlsClient | None] = lambda server: None,
        announce: Callable[[list[control.PublicTunnel]], None],
        call_later: Callable[[float, Callable[[], None]], Timer],
        device: str = "",
        pool: int = POOL_MAX,
        links_max: int = 0,
        is_configurable: bool = False,
        backoff: Callable[[], Backoff] = Backoff,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._targets = targets
        self._announce = announce
        self._watch = watch or Watch()
        self._is_dynamic = is_dynamic
        self._call_later = call_later
        self._backoff = backoff
        self._monotonic = monotonic
        self._tasks = Tasks()
        self._announced = Announced(
            tunnels,
            agent=f"proxy-engine/{proxy_engine.__version__}",
            platform=f"{platform.system()} {platform.machine()}",
        )
        self._run = Run(
            engine=engine,
            servers=servers,
            token=token,
            device=device,
            instance=os.urandom(16).hex(),
            announced=self._announced,
            reach=reach,
            tls=tls,
            call_later=call_later,
            monotonic=monotonic,
            wall=wall,
            tasks=self._tasks,
            pool=pool,
        )
        self.is_configurable = is_configurable  # may change
        self._links_max = links_max or LINKS_MAX
        self._offered = 1  # links, as far as we know
        self._needed = 1  # links, by the server's last word since a link serves
        self._keepers = [self._keeper(1)]
        self._public: list[control.PublicTunnel] | None = None
        self._failed_targets: set[str] = set()  # lately, each looked up again once
        self._target_logged: dict[str, float] = {}  # monotonic
        self._is_ending = False
        self._refreshing: Timer | None = None
        self.failure: list[ConnectError | TunnelError] = []  # why it ended by itself
        self.ended = asyncio.Event()

    @property
    def authority(self) -> str:
        """Of the server that it has links to, or tries next."""
        return self._servers.server.authority

    @property
    def links_serving(self) -> int:
        return sum(keeper.is_serving for keeper in self._keepers)

    @property
    def public(self) -> list[control.PublicTunnel]:
        """Its tunnels, as the server last said."""
        return self._public or []

    @property
    def is_ending(self) -> bool:
        return self._is_ending

    def _keeper(self, number: int) -> LinkKeeper:
        return LinkKeeper(self._run, number, self, self._backoff())

    # Life

    def start(self) -> None:
        self._tasks.spawn(self._start())

    async def _start(self) -> None:
        await self._targets.refresh()
        if not self._is_ending:
            self._keepers[0].start(0)
            self._refreshing = self._call_later(REFRESH_INTERVAL, self._refresh)

    def _refresh(self) -> None:
        self._tasks.spawn(self._targets.refresh())
        self._refreshing = self._call_later(REFRESH_INTERVAL, self._refresh)

    def serve(self, tunnels: list[control.TunnelSpec]) -> int:
        """From now on these are its tunnels, on the links there are and those to come. Returns
        their version: see Watch.answered()."""
        self._announced.change(tunnels)
        for keeper in self._keepers:
            keeper.register()
        return self._announced.version

    def drain(self) -> None:
        """Tell the server to send nothing new, and dial no more."""
        self._end()
        for keeper in self._keepers:
            keeper.drain()

    async def close(self) -> None:
        self._end()
        await self._tasks.close()

    def _end(self) -> None:
        self._is_ending = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        for keeper in self._keepers:
            keeper.stop()

    def on_event(self, event: Event) -> None:
        if self._is_ending:
            return
        if event[0] == EVENT_TARGET_FAILED:
            self._target_failed(event[1], event[3] or os.strerror(event[2]))
            return
        if len(event) == 1:  # the engine has drained
            return
        link_id = event[1]
        keeper = next((keeper for keeper in self._keepers if keeper.owns(link_id)), None)
        if keeper is None:
            if event[0] == EVENT_LINK_UP:
                self._run.engine.link_close(link_id, "unexpected")
        elif event[0] == EVENT_LINK_UP:
            keeper.up(link_id, event[4])
        elif event[0] == EVENT_LINK_DOWN:
            keeper.down(link_id, event[3])
        elif event[0] == EVENT_CONTROL:
            keeper.record(link_id, event[2])
        elif event[0] == EVENT_DIAL_FAILED:
            keeper.refused(*event[2:])

    # What a keeper asks and tells (link_keeper.Owner)

    def may_dial(self, keeper: LinkKeeper) -> bool:
        return not self._is_ending and keeper.number <= self._wanted

    @property
    def _wanted(self) -> int:
        """Links there should be now."""
        return min(self._needed, self._offered)

    def link_offered(self, links: int) -> None:
        self._offered = max(1, min(links, self._links_max))

    def link_registered(self, keeper: LinkKeeper, record: control.Registered, version: int) -> str:
        serving = self.links_serving
        if self._announced.tunnels and not record.tunnels:
            if record.refused and all(item.code in PASSING for item in record.refused):
                return record.refused[0].code
            if not self._is_dynamic and version == 1:
                errors: list[TunnelError] = [_refused(item) for item in record.refused]
                self.fail(*(errors or [TunnelError("the server accepted no tunnel")]))
                return ""
        if serving == 1:
            for item in record.refused:
                _log.warning("tunnel refused", tunnel=item.name, code=item.code, error=item.message)
            for tunnel in record.tunnels:
                if tunnel.disabled:
                    _log.warning("tunnel is disabled by the server", tunnel=tunnel.name)
            what = "tunnels changed" if keeper.has_answer else "connected"
            _log.info(what, server=self.authority, tunnels=len(record.tunnels))
        elif not keeper.has_answer:
            _log.info("one more link", server=self.authority, links=serving)
        if record.tunnels != self._public:
            self._public = record.tunnels
            self._announce(record.tunnels)
        self._watch.answered(
            version, record.tunnels, {item.name: _refused(item) for item in record.refused}
        )
        self._adjust()
        return ""

    def links_wanted(self, links: int) -> None:
        self._needed = max(1, links)
        self._adjust()

    def configure(self, link_id: int, record: control.Configure) -> None:
        self._tasks.spawn(self._configure(link_id, record))

    async def _configure(self, link_id: int, record: control.Configure) -> None:
        answer = control.Configured(record.id)
        try:
            if not self.is_configurable:
                message = "this agent takes no targets from the server (--allow-remote-config)"
                raise NotTaken("config_forbidden", message)
            wanted = parse_address(record.target, port_min=1) if record.target else None
            target = await self._targets.change(record.tunnel, wanted)
            _log.info("the server changed a target", tunnel=record.tunnel, target=target)
        except NotTaken as error:
            answer = control.Configured(record.id, error.code, error.message)
        except ValueError as error:
            answer = control.Configured(record.id, "bad_target", str(error))
        if answer.code:
            _log.warning(
                "target not taken from the server",
                tunnel=record.tunnel,
                target=record.target,
                code=answer.code,
            )
        self._run.engine.link_send(link_id, control.encode(answer))

    def _adjust(self) -> None:
        """As many links as are wanted, once one of them serves."""
        if not any(keeper.is_serving for keeper in self._keepers[: self._wanted]):
            return
        while len(self._keepers) < self._wanted:
            self._keepers.append(self._keeper(len(self._keepers) + 1))
        for keeper in self._keepers:
            if keeper.number <= self._wanted:
                keeper.start()
            else:
                keeper.retire()

    def _is_serving(self) -> bool:
        return any(keeper.is_serving for keeper in self._keepers)

    def try_next(self, *, may_be_carrier: bool) -> bool:
        return not self._is_serving() and self._servers.failed(may_be_carrier=may_be_carrier)

    def link_lost(self, keeper: LinkKeeper) -> None:
        if not self._is_serving():
            self._needed = 1
            for other in self._keepers[1:]:
                other.park()
            if not self._is_ending:
                self._watch.lost()

    def report(self, keeper: LinkKeeper, failure: ConnectError) -> None:
        if self._is_serving():
            what = "a link is down, the others serve"
            _log.warning(what, server=self.authority, link=keeper.number, reason=failure)
        else:
            what = "not connected, trying again"
            _log.warning(what, server=self.authority, reason=failure)
            self._watch.trying(failure)

    def fail(self, *errors: ConnectError | TunnelError) -> None:
        if not self._is_ending:
            self._end()
            self.failure = list(errors)
            self.ended.set()
            self._watch.ended(errors[0])

    def fail_replaced(self, message: str) -> None:
        what = message or "replaced by another agent run"
        self.fail(ReplacedError(f"{what}; is the token used twice?", reason="replaced"))

    def told(self, record: control.Error) -> None:
        _log.warning("the server reports", code=record.code, error=record.message)
        self._watch.told(record.code, record.message, record.tunnel)

    # Targets

    def _target_failed(self, tunnel: str, reason: str) -> None:
        if tunnel in self._failed_targets:
            return
        self._failed_targets.add(tunnel)
        now = self._monotonic()
        if now - self._target_logged.get(tunnel, -TARGET_LOG_INTERVAL) >= TARGET_LOG_INTERVAL:
            self._target_logged[tunnel] = now
            _log.warning("target can not be connected", tunnel=tunnel, error=reason)
        self._tasks.spawn(self._targets.refresh())
        # Every failing request says so; one lookup a second is enough.
        self._call_later(TARGET_CHECK_INTERVAL, lambda: self._failed_targets.discard(tunnel))


# Of what was asked for, rather than of what the server has or allows.
_OURS = ("bad_name", "bad_kind", "bad_option", "bad_port", "bad_record")


def _refused(item: control.RefusedTunnel) -> RefusedError:
    kind = NameTakenError if item.code == "tunnel_taken" else RefusedError
    return kind(
        f'tunnel "{item.name}" refused: {item.message} ({item.code})',
        reason=item.code,
        tunnel=item.name,
        fault="ours" if item.code in _OURS else "theirs",
        retryable=item.code in PASSING,
    )
