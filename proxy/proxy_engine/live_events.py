"""What happens now, for whoever watches: finished requests, devices that come and go, metrics.

Nobody is waited for. Each subscriber has a queue of QUEUE_MAX events; what does not fit is
dropped and counted, and the subscriber is told how many it missed as soon as it reads
again. While nobody watches, nothing is unpacked.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from proxy_engine_core import log_batch

if TYPE_CHECKING:
    from proxy_engine.storage import Tunnel
    from proxy_engine.tunnels.routes import Change

Topic = Literal["requests", "devices", "tunnels", "metrics"]
TOPICS: tuple[Topic, ...] = ("requests", "devices", "tunnels", "metrics")
QUEUE_MAX = 1000  # events of one subscriber
SUBSCRIBERS_MAX = 64
RECORDS_MAX = 500  # requests of one batch that are unpacked; the rest counts as dropped


class RequestEvent(msgspec.Struct, tag_field="type", tag="request", kw_only=True):
    """A request has ended."""

    time_us: Annotated[int, msgspec.Meta(description="wall clock, microseconds")]
    request_id: str
    visitor: str
    method: str
    host: str
    path: str
    status: Annotated[int, msgspec.Meta(description="0: nothing was sent")]
    reason: str
    bytes_in: int
    bytes_out: int
    total_us: int
    first_byte_us: int
    target_us: int
    tunnel: str | None
    device: str | None
    proxy_us: int = 0
    link_us: int = 0
    trace_id: str = ""
    parent_id: str = ""
    span_id: str = ""
    trace_flags: int = 0


class DeviceEvent(msgspec.Struct, tag_field="type", tag="device", kw_only=True):
    """A link of a device came up or went down. links == 0: it is offline."""

    at: float
    device: str
    change: Literal["up", "down"]
    links: int
    peer: str
    reason: str = ""


class TunnelEvent(msgspec.Struct, tag_field="type", tag="tunnel", kw_only=True):
    """A tunnel came to be, was changed, deleted, or is served from now on, or no more."""

    at: float
    tunnel: str
    change: Literal["created", "changed", "deleted", "online", "offline"]


class MetricsEvent(msgspec.Struct, tag_field="type", tag="metrics", kw_only=True):
    """The counters of /api/v1/stats."""

    at: float
    values: dict[str, int]


class DroppedEvent(msgspec.Struct, tag_field="type", tag="dropped", kw_only=True):
    """This many events were dropped here, because they were not read in time."""

    count: int


Event = RequestEvent | DeviceEvent | TunnelEvent | MetricsEvent | DroppedEvent


class Subscriber:
    def __init__(self, topics: frozenset[Topic]) -> None:
        self.topics = topics
        self._queue: deque[bytes] = deque()
        self._dropped = 0
        self._wake = asyncio.Event()

    def put(self, event: bytes) -> bool:
        """False if it was dropped."""
        if len(self._queue) >= QUEUE_MAX:
            self._dropped += 1
            return False
        self._queue.append(event)
        self._wake.set()
        return True

    def miss(self, count: int) -> None:
        self._dropped += count
        self._wake.set()

    async def get(self, most: int = 1) -> list[bytes]:
        """The next events, as JSON, once there is one."""
        while not self._queue and not self._dropped:
            self._wake.clear()
            await self._wake.wait()
        if self._queue:
            return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        event, self._dropped = DroppedEvent(count=self._dropped), 0
        return [msgspec.json.encode(event)]


class LiveEvents:
    """The subscribers of one server.

    Args:
        redact: a path and query as others may see it.
        tunnel_name, device_name: of the ids in log records.
    """

    def __init__(
        self,
        *,
        redact: Callable[[str], str],
        tunnel_name: Callable[[int], str | None],
        device_name: Callable[[int], str | None],
    ) -> None:
        self._redact = redact
        self._tunnel_name = tunnel_name
        self._device_name = device_name
        self._subscribers: set[Subscriber] = set()
        self.dropped = 0  # of all subscribers, ever

    def __len__(self) -> int:
        return len(self._subscribers)

    def wants(self, topic: Topic) -> bool:
        return any(topic in subscriber.topics for subscriber in self._subscribers)

    @contextmanager
    def subscribe(self, topics: frozenset[Topic]) -> Iterator[Subscriber]:
        subscriber = Subscriber(topics)
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def publish(self, topic: Topic, event: Event) -> None:
        if self.wants(topic):
            self._put(topic, msgspec.json.encode(event))

    def requests(self, batch: bytes) -> None:
        """Packed records of requests that ended (proxy_engine_core.log_batch)."""
        if not self.wants("requests"):
            return
        records = log_batch.unpack(batch)
        for record in records[:RECORDS_MAX]:
            event = RequestEvent(
                time_us=record.time_us,
                request_id=record.request_id,
                visitor=record.visitor,
                method=record.method,
                host=record.host,
                path=self._redact(record.path),
                status=record.status,
                reason=record.reason,
                bytes_in=record.bytes_in,
                bytes_out=record.bytes_out,
                total_us=record.total_us,
                first_byte_us=record.first_byte_us,
                target_us=record.target_us,
                tunnel=self._tunnel_name(record.route),
                device=self._device_name(record.device),
                proxy_us=record.proxy_us,
                link_us=record.link_us,
                trace_id=record.trace_id,
                parent_id=record.parent_id,
                span_id=record.span_id,
                trace_flags=record.trace_flags,
            )
            self._put("requests", msgspec.json.encode(event))
        missed = len(records) - RECORDS_MAX
        if missed > 0:
            for subscriber in self._subscribers:
                if "requests" in subscriber.topics:
                    subscriber.miss(missed)
                    self.dropped += missed

    def device(
        self, device: str, change: Literal["up", "down"], links: int, peer: str, reason: str = ""
    ) -> None:
        event = DeviceEvent(
            at=time.time(), device=device, change=change, links=links, peer=peer, reason=reason
        )
        self.publish("devices", event)

    def tunnel(self, change: Change, tunnel: Tunnel) -> None:
        self.publish("tunnels", TunnelEvent(at=time.time(), tunnel=tunnel.name, change=change))

    def _put(self, topic: Topic, event: bytes) -> None:
        for subscriber in self._subscribers:
            if topic in subscriber.topics and not subscriber.put(event):
                self.dropped += 1
