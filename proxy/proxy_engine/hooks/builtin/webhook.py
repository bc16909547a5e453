"""Webhooks: devices and tunnels that come and go, told to a URL of the operator's.

Each event is one POST of JSON, in order, signed so that the receiver knows it is ours and new:

    Proxy-Engine-Signature: t=1700000000,v1=HEX    HMAC-SHA256 of "1700000000." and the body

A POST that is not answered 2xx is sent again, ever more slowly, under the same id; then the
next one. What waits is bounded: beyond it, and after the last try, events are dropped and
counted. Nothing waits for a webhook.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import msgspec

from proxy_engine import failures, logs
from proxy_engine.hooks.events import DevicePresence, ServerEvent, TunnelPresence
from proxy_engine.hooks.hook import Hook, inline

QUEUE_MAX = 1000  # events that wait
CLOSE_SECONDS = 5.0  # for what waits, when the program ends
TRIES_MAX = 8  # of one event; with the delays below about two minutes
DELAY_FIRST, DELAY_MAX = 1.0, 60.0  # seconds between tries; doubled each time

DEVICE_EVENTS = ("device.online", "device.offline")
EVENTS = (*DEVICE_EVENTS, "tunnel.online", "tunnel.offline")

# Sends body and headers to a URL; the status of the answer, 0 if there was none.
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
_log = logs.get("webhook")


def signature(secret: str, moment: int, body: bytes) -> str:
    """The field's value. An empty secret signs nothing and gives ""."""
    if not secret:
        return ""
    code = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    return f"t={moment},v1={code.hexdigest()}"


class Webhook(Hook):
    """Devices and tunnels that come and go, told to a URL, signed, and tried again.

    Args:
        url: where it is told; "": nothing is told.
        secret: signs it; "": nothing is signed.
        events: which of these are told.
        post: instead of HTTP.
    Raises: ValueError for an event that there is not.
    """

    order = 1000
    # It has a queue of its own, and to be closed it needs longer than other hooks.
    timeout = CLOSE_SECONDS + 5.0

    def __init__(
        self,
        url: str = "",
        secret: str = "",
        *,
        events: Sequence[str] = EVENTS,
        post: Post | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        for event in events:
            if event not in EVENTS:
                raise ValueError(f'"{event}" is none of: {", ".join(EVENTS)}')
        self.url = url  # may change while it runs, like the secret
        self.secret = secret
        self._events = frozenset(events)
        self._post = post
        self._clock = clock
        self._sleep = sleep
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()  # nothing waits
        self._idle.set()
        self._exit = AsyncExitStack()
        self.sent = 0
        self.failed = 0  # tries
        self.dropped = 0

    async def on_server_start(self, event: ServerEvent) -> None:
        if self._post is None:
            from proxy_engine.hooks.builtin.http_post import poster

            self._post = await self._exit.enter_async_context(poster())
        task = asyncio.create_task(self.run(), name="webhook")
        self._exit.callback(task.cancel)

    async def on_server_stop(self, event: ServerEvent) -> None:
        await self.close()
        await self._exit.aclose()

    def stats(self) -> Mapping[str, int]:
        return {"sent": self.sent, "failures": self.failed, "dropped": self.dropped}

    @inline
    def on_device_online(self, event: DevicePresence) -> None:
        self._device("device.online", event)

    @inline
    def on_device_offline(self, event: DevicePresence) -> None:
        self._device("device.offline", event)

    @inline
    def on_tunnel_online(self, event: TunnelPresence) -> None:
        self._tunnel("tunnel.online", event)

    @inline
    def on_tunnel_offline(self, event: TunnelPresence) -> None:
        self._tunnel("tunnel.offline", event)

    def _device(self, kind: str, event: DevicePresence) -> None:
        fields = {
            "device": event.device,
            "device_id": event.device_id,
            "address": event.address,
            "reason": event.reason,
        }
        self._put(kind, event.at, fields)

    def _tunnel(self, kind: str, event: TunnelPresence) -> None:
        fields = {
            "tunnel": event.tunnel,
            "tunnel_id": event.tunnel_id,
            "kind": event.kind,
            "port": event.port,
            "device_id": event.device_id,
        }
        self._put(kind, event.at, fields)

    def _put(self, kind: str, at: float, fields: Mapping[str, object]) -> None:
        """Queue an event; the oldest that waits makes room."""
        if not self.url or kind not in self._events:
            return
        body = msgspec.json.encode({"id": uuid.uuid4().hex, "type": kind, "time": at, **fields})
        if len(self._queue) >= QUEUE_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(body)
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._wake.wait()
            while self._queue:
                await self._deliver(self._queue.popleft())
            self._wake.clear()
            self._idle.set()

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Give run() this long for what waits; the rest is dropped and counted."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            left = len(self._queue) + 1  # and the one that is being tried
            self.dropped += left
            failures.error(_log, "webhook", "lost", "webhooks lost, the server ends", count=left)

    async def _deliver(self, body: bytes) -> None:
        assert self._post is not None
        delay = DELAY_FIRST
        for number in range(1, TRIES_MAX + 1):
            moment = int(self._clock())  # of this try: receivers refuse what is old
            headers = {"Content-Type": "application/json"}
            signed = signature(self.secret, moment, body)
            if signed:
                headers["Proxy-Engine-Signature"] = signed
            status = await self._post(self.url, body, headers)
            if 200 <= status < 300:
                self.sent += 1
                return
            self.failed += 1
            failures.warning(
                _log, "webhook", "attempt", "webhook not delivered", status=status, attempt=number
            )
            if number < TRIES_MAX:
                await self._sleep(delay)
                delay = min(2 * delay, DELAY_MAX)
        self.dropped += 1
        failures.error(_log, "webhook", "given_up", "webhook given up", tries=TRIES_MAX)
