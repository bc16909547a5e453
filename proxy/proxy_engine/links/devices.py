"""Who is online, and what becomes known of devices and tokens: written now and then.

A device is online while it has a link. What is seen of it (address, program, counts) is
gathered here and written once a tick; when it came and went is kept as events, in order.
What the store does not take waits here, up to a bound, for the next tick.

Nothing here talks to anybody but the store.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping

from proxy_engine.errors import StorageError, UsageError
from proxy_engine.links.table import Link
from proxy_engine.storage import DeviceEvent, Presence, Sighting, Store

EVENTS_MAX = 10_000  # that wait for the store; beyond, the oldest are dropped and counted
LABELS_MAX = 32  # of one device
LABEL_SIZE_MAX = 255  # characters of a value
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)

Totals = Mapping[int, tuple[int, int, int]]  # requests, bytes in and out, by device


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises UsageError."""
    if len(labels) > LABELS_MAX:
        raise UsageError(f"a device has at most {LABELS_MAX} labels")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise UsageError(
                f'"{name}" is not the name of a label: letters, digits, ".", "_", "/" and "-", '
                "at most 63"
            )
        if len(value) > LABEL_SIZE_MAX or not value.isprintable():
            raise UsageError(f'the label "{name}": at most {LABEL_SIZE_MAX} visible characters')


class Registry:
    """
    Args:
        notify: called with each event, in order.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float],
        notify: Callable[[str, DeviceEvent], None] = lambda name, event: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._notify = notify
        self._online: dict[int, float] = {}  # since when, by id
        self._sightings: dict[int, Sighting] = {}  # not written yet, like the following
        self._tokens_used: dict[int, float] = {}
        self._events: deque[DeviceEvent] = deque()
        self.events_dropped = 0

    def online_since(self, device_id: int) -> float | None:
        return self._online.get(device_id)

    # What is seen

    def token_used(self, token_id: int) -> None:
        self._tokens_used[token_id] = self._clock()

    def link_up(self, link: Link) -> None:
        seen = self._seen(link)
        seen.links += 1
        if link.device_id not in self._online:
            self._online[link.device_id] = link.since
            self._record(link.device_id, link.device, "online", _address(link.peer))

    def registered(self, link: Link) -> None:
        """It has said what it is."""
        self._seen(link)

    def link_down(self, link: Link, reason: str, *, is_last: bool) -> None:
        self._seen(link)
        if is_last and self._online.pop(link.device_id, None) is not None:
            self._record(link.device_id, link.device, "offline", _address(link.peer), reason)

    def count(self, totals: Totals) -> None:
        """Finished requests."""
        for device_id, (requests, bytes_in, bytes_out) in totals.items():
            if device_id:
                seen = self._sightings.setdefault(device_id, Sighting())
                seen.requests += requests
                seen.bytes_in += bytes_in
                seen.bytes_out += bytes_out

    async def write(self) -> None:
        """Write what has been seen. Raises StorageError; then it is kept for the next time."""
        used, self._tokens_used = self._tokens_used, {}
        seen, self._sightings = self._sightings, {}
        try:
            if used or seen:
                await self._store.seen(used, seen)
        except StorageError:
            self._tokens_used = used | self._tokens_used
            for device_id, later in self._sightings.items():
                seen[device_id] = _sum(seen.get(device_id, Sighting()), later)
            self._sightings = seen
            raise
        if self._events:
            events = list(self._events)
            await self._store.device_events_add(events)
            for _ in range(min(len(events), len(self._events))):
                self._events.popleft()

    async def close(self, names: Mapping[int, str]) -> None:
        """The server ends, and every device with it is offline.

        Args:
            names: of those that are online.
        """
        for device_id in self._online:
            name = names.get(device_id, str(device_id))
            self._record(device_id, name, "offline", "", "server_stopped")
        self._online.clear()
        await self.write()

    def _seen(self, link: Link) -> Sighting:
        seen = self._sightings.setdefault(link.device_id, Sighting())
        seen.at = self._clock()
        seen.address = _address(link.peer)
        seen.agent = link.agent or seen.agent
        seen.platform = link.platform or seen.platform
        return seen

    def _record(
        self, device_id: int, name: str, kind: Presence, address: str, reason: str = ""
    ) -> None:
        event = DeviceEvent(
            device_id=device_id, at=self._clock(), kind=kind, address=address, reason=reason
        )
        if len(self._events) >= EVENTS_MAX:
            self._events.popleft()
            self.events_dropped += 1
        self._events.append(event)
        self._notify(name, event)


def _address(peer: str) -> str:
    """Without port and brackets."""
    return peer.rpartition(":")[0].strip("[]")


def _sum(first: Sighting, later: Sighting) -> Sighting:
    return Sighting(
        at=first.at if later.at is None else later.at,
        address=later.address or first.address,
        agent=later.agent or first.agent,
        platform=later.platform or first.platform,
        links=first.links + later.links,
        requests=first.requests + later.requests,
        bytes_in=first.bytes_in + later.bytes_in,
        bytes_out=first.bytes_out + later.bytes_out,
    )
