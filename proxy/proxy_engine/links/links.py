"""Device links on the server: what becomes of them, and when they end.

The life of a link:

    EVENT_AUTH     the request is checked and answered (admission.py)
    EVENT_LINK_UP  the link exists; it serves nothing yet
    "register"     its tunnels are claimed and routed to it (registration.py); only then are
                   the links it takes over from closed ("replaced"), so that visitors never
                   fall between two
    EVENT_LINK_DOWN  its routes are withdrawn

A link that is no agent of ours (no Proxy-Engine-Version) need not speak control records:
it serves the tunnel named like its device at once.

Everything here runs on the event loop and returns at once; what has to wait for the store
is done by tasks of admission and registration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from proxy_engine import control, failures, logs, tokens
from proxy_engine.cache import AccessCache
from proxy_engine.errors import StorageError
from proxy_engine.hooks.manager import Manager
from proxy_engine.links.admission import Admission, Ask
from proxy_engine.links.demand import LinkDemand
from proxy_engine.links.devices import Registry
from proxy_engine.links.joined import Joined
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.links.pushes import Pushes
from proxy_engine.links.registration import Registration
from proxy_engine.links.table import Link, LinkTable
from proxy_engine.settings.config import LINKS_MAX
from proxy_engine.storage import DeviceEvent, Store, Tunnel
from proxy_engine.tasks import Tasks
from proxy_engine.tls import certificate_names
from proxy_engine.tunnels.ports import Ports
from proxy_engine.tunnels.routes import TunnelTable
from proxy_engine.values import POOL_MAX
from proxy_engine_core.core import (
    EVENT_AUTH,
    EVENT_CONTROL,
    EVENT_LINK_DOWN,
    EVENT_LINK_LOAD,
    EVENT_LINK_SPENT,
    EVENT_LINK_UP,
)

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Event

# Seconds for the requests on a link that another has replaced. One of another run is often dead
# without our knowing yet, and what waits for it waits in vain.
SPENT_GRACE = 60.0
REPLACED_GRACE = 10.0

_log = logs.get("links")


class Links:
    """Implements the life above for one engine.

    Args:
        links_max: links one run of an agent may have; 0: one for each worker.
        ports: those of TCP tunnels; None: there are none.
        pool: idle direct connections a link may have.
        busy_share: percent of a core that makes a worker busy (demand.py).
        hooks: are asked whether a link, or a tunnel of it, may be.
        needs_certificate: whether every device has to show one.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        table: TunnelTable,
        *,
        links_max: int = 0,
        ports: Ports | None = None,
        pool: int = POOL_MAX,
        busy_share: int = 60,
        cache: AccessCache | None = None,
        guard: LoginGuard | None = None,
        hooks: Manager | None = None,
        notify: Callable[[str, DeviceEvent], None] = lambda name, event: None,
        needs_certificate: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._needs_certificate = needs_certificate
        self._store = store
        self._table = table
        self._clock = clock
        self._tasks = Tasks()
        self._links = LinkTable(
            links_max=links_max or min(engine.workers, LINKS_MAX), workers=engine.workers
        )
        self.registry = Registry(store, clock=clock, notify=notify)
        self._demand = LinkDemand(engine, self._links, busy_share=busy_share, clock=monotonic)
        self._cache = cache or AccessCache(store)
        self.must_recheck = False  # a link may have come up with what is not good any more
        self._joined = Joined(engine)
        hooks = hooks or Manager()
        self._admission = Admission(
            engine,
            self._links,
            self._tasks,
            cache=self._cache,
            guard=guard or LoginGuard(0),
            registry=self.registry,
            table=table,
            pool=pool,
            joined=self._joined,
            hooks=hooks,
            clock=clock,
            monotonic=monotonic,
            needs_certificate=needs_certificate,
        )
        self._ports = ports or Ports(engine, table)
        self.pushes = Pushes(engine, self._links, table)
        self._registration = Registration(
            engine,
            store,
            self._links,
            table,
            self._tasks,
            self.registry,
            self._ports,
            self._replace,
            self.pushes.registered,
            hooks,
            clock,
        )

    def __len__(self) -> int:
        return len(self._links)

    def get(self, link_id: int) -> Link | None:
        return self._links.get(link_id)

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links)

    def device_name(self, device_id: int) -> str | None:
        """Of one that has a link. Any thread."""
        return self._links.device_name(device_id)

    def of_device(self, device_id: int) -> list[Link]:
        """In the order they came up."""
        return self._links.of_device(device_id)

    def on_event(self, event: Event) -> None:
        if event[0] == EVENT_AUTH:
            self._admission.ask(Ask(*event[1:]))
        elif event[0] == EVENT_LINK_UP:
            self._up(*event[1:])
        elif event[0] == EVENT_CONTROL:
            self._record(*event[1:])
        elif event[0] == EVENT_LINK_SPENT:
            self._spent(event[1])
        elif event[0] == EVENT_LINK_LOAD:
            self._demand.load(event[1], event[2])
        elif event[0] == EVENT_LINK_DOWN:
            self._down(*event[1:])

    def drain(self) -> None:
        """Refuse new links and tell the present ones to look elsewhere."""
        self._admission.is_draining = True
        for link in self._links:
            self._engine.link_send(link.id, control.encode(control.Drain()))

    def aim(self, busy_share: int) -> None:
        """Another share that makes a worker busy, from now on."""
        self._demand.aim(busy_share)

    async def settle(self) -> None:
        """Until every request and record so far has its answer."""
        await self._tasks.settle()

    async def close(self) -> None:
        await self._tasks.close()
        try:
            await self.registry.close({link.device_id: link.device for link in self._links})
        except StorageError as error:
            failures.error(
                _log, "store", "devices", "what was seen of devices is lost", error=error
            )

    async def recheck(self) -> None:
        """Close links whose token or device is not good any more, and take note of the rest:
        of what others have changed of tunnels, too."""
        # Who comes while the store answers may be newer than what it says.
        links, tunnels = list(self._links), {tunnel.id for tunnel in self._table}
        version = self._cache.version
        self.must_recheck = False
        try:
            known = {token.id: token for token in await self._store.tokens()}
            devices = {device.id: device for device in await self._store.devices()}
            self._engine.routes_apply(self._table.sync(await self._store.tunnels(), tunnels))
        except StorageError:
            self.must_recheck = True
            raise
        self._cache.learn(known.values(), devices.values(), version)
        now = self._clock()
        self._joined.recheck(known, now)
        for token_id in {link.token_id for link in links} & known.keys():
            self._engine.limits_apply(token_id, known[token_id].limits.shared)
        for link in links:
            token = known.get(link.token_id)
            token = None if token is None else tokens.as_used(token, link.digest)
            device = devices.get(link.device_id)
            reason = tokens.refusal(token, now)
            if reason is None and device is None:
                reason = "deleted_device"
            if reason is None and device is not None and device.is_blocked:
                reason = "blocked_device"
            if reason is not None:
                self._close(link, reason, "the server took back this device's permission")
            elif token is not None and device is not None:
                link.expires_at, link.device = token.expires_at, device.name
                link.limits = token.limits
                if device.kicked_at is not None and link.since < device.kicked_at:
                    self._close(link, "kicked", "an admin has ended the links of this device")
                elif wrong := certificate_names.refusal(
                    device.name,
                    device.certificate_names,
                    link.certificate,
                    is_required=self._needs_certificate(),
                ):
                    self._close(link, *wrong)

    def put_tunnel(self, tunnel: Tunnel) -> None:
        """An operator has made or changed it: live traffic follows at once."""
        self._engine.routes_apply(self._table.put(tunnel))

    def flush(self, tunnel: Tunnel) -> None:
        """Its target has become another: no connection to the old one is used again."""
        for link in self._table.links(tunnel):
            self._engine.link_flush(link, tunnel.id)

    def drop_tunnel(self, tunnel: Tunnel) -> None:
        """... or deleted it. Whoever serves it claims it again when it next registers."""
        links = [self._links.get(number) for number in self._table.links(tunnel)]
        self._engine.routes_apply(self._table.drop(tunnel))
        if tunnel.port is not None:
            self._ports.close(tunnel.kind, tunnel.port)
        message = f'the tunnel "{tunnel.name}" was deleted; connect again to have it anew'
        for link in links:
            if link is not None:
                record = control.Error("deleted_tunnel", message, tunnel.name)
                self._engine.link_send(link.id, control.encode(record))

    def tick(self) -> None:
        """Now and then: what time does to links."""
        now = self._clock()
        for link in self._links:
            if link.expires_at is not None and link.expires_at <= now:
                self._close(link, "expired_token", "the token has expired")
            if link.ends_at is not None and link.ends_at <= now:
                self._close(link, "replaced", "replaced by a newer link of this agent")
        self._joined.tick(now)
        self._links.expire(now)
        self._ports.tick()
        self._demand.tick()

    # Up and down

    def _up(self, link_id: int, device_id: int, peer: str, head: bytes) -> None:
        link = self._links.up(link_id, device_id, peer, self._clock())
        if link is None:  # not one we let in, or far too late
            _log.warning("unknown link closed", link=link_id, device=device_id, peer=peer)
            self._engine.link_close(link_id, "unknown")
            return
        if link.version != self._cache.version:  # somebody wrote after its token was looked up
            self.must_recheck = True
        self.registry.link_up(link)
        if self._admission.is_turned_away(device_id, link.instance):  # while it came up
            self._close(link, "replaced", "replaced by another agent run")
            return
        if self._admission.is_draining:
            self._engine.link_send(link_id, control.encode(control.Drain()))
        if not link.is_agent:
            specs = [self._stock_spec(link.device.lower())]
            self._registration.put(link, control.Register(tunnels=specs), is_answered=False)

    def _stock_spec(self, name: str) -> control.TunnelSpec:
        """What a device without control records serves: a tunnel of its name, as it is known."""
        tunnel = self._table.get(name)
        if tunnel is None:
            return control.TunnelSpec(name)
        return control.TunnelSpec(name, tunnel.kind, tunnel.port)

    def _down(
        self,
        link_id: int,
        device_id: int,
        reason: str,
        bytes_in: int,
        bytes_out: int,
        seconds: float,
    ) -> None:
        link = self._links.get(link_id)
        if link is not None:
            self.pushes.failed(link, "device_offline", "the link to the agent has ended")
        self._engine.routes_apply(self._table.withdraw(link_id))
        if link is None:
            return
        self._links.down(link_id)
        _log.info(
            "link down",
            device=link.device,
            link=link_id,
            reason=reason,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            seconds=round(seconds, 3),
        )
        is_last = not self._links.of_device(link.device_id)
        if is_last:
            self._admission.readmit(link.device_id)
        self.registry.link_down(link, reason, is_last=is_last)

    def _spent(self, link_id: int) -> None:
        """Its stream ids run low: the agent makes another link, which replaces this one.

        A device without a control stream can not be asked; it dials again when this ends.
        """
        link = self._links.get(link_id)
        if link is None or link.is_closing:
            return
        link.is_spent = True
        _log.info("link to be replaced", device=link.device, link=link_id)
        if link.is_agent:
            self._engine.link_send(link_id, control.encode(control.Drain()))
        else:
            self._close(link, "spent", "this link has carried as many streams as it may")

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
        if link is None or link.is_leaving:
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
            self._register(link, record, len(data))
        elif isinstance(record, control.Configured):
            self.pushes.answered(link, record)
        elif isinstance(record, control.Drain):
            link.is_draining = True
            self._engine.routes_apply(self._table.withdraw(link_id))
            self._engine.link_drain(link_id, close=True)
            _log.info("device drains", device=link.device, link=link_id)
        else:
            if record.code == "unknown_record":
                self.pushes.failed(link, "no_agent", "the agent is too old to be told")
            _log.warning(
                "device reports", device=link.device, code=record.code, error=record.message
            )

    def _register(self, link: Link, record: control.Register, size: int) -> None:
        link.registering_size += size
        if link.registering_size > control.REGISTER_SIZE_MAX:
            message = f"a register of more than {control.REGISTER_SIZE_MAX} bytes"
            self._close(link, "bad_record", message)
            return
        # One too many is kept, for the answer to the last record.
        tunnels = [*(link.registering or ()), *record.tunnels][: control.TUNNELS_MAX + 1]
        link.registering = tunnels if record.more else None
        if not record.more:
            link.registering_size = 0
            self._registration.put(link, msgspec.structs.replace(record, tunnels=tunnels))

    def _replace(self, link: Link, older: list[Link]) -> None:
        """This link has taken over from older ones: its routes have moved already."""
        self._demand.registered(link)
        for other in older:
            if other.is_leaving:
                continue
            is_same = other.run == link.run
            newer = "a newer link of this agent" if is_same else "another agent run"
            message = f"replaced by {newer} from {link.peer}"
            if is_same and not other.is_spent:
                self._close(other, "replaced", message)  # its agent has lost it already
                continue
            # Nothing is wrong with it that we know of: what is under way there may finish.
            self._engine.link_drain(other.id, close=True)
            if is_same:
                other.ends_at = self._clock() + SPENT_GRACE
            else:
                self._admission.turn_away(link.device_id, other.instance)
                self._engine.link_send(other.id, control.encode(control.Error("replaced", message)))
                other.ends_at = self._clock() + REPLACED_GRACE
