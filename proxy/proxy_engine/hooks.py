"""Webhooks: devices that come and go, told to a URL of the operator's.

Each event is one POST of JSON, in order, signed so that the receiver knows it is ours and new:

    Proxy-Engine-Signature: t=1700000000,v1=HEX    HMAC-SHA256 of "1700000000." and the body

A POST that is not answered 2xx is sent again, ever more slowly, under the same id; then the
next one. What waits is bounded: beyond it, and after the last try, events are dropped and
counted. Nothing waits for a webhook.

No HTTP here: `post` does that.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from proxy_engine import logs
from proxy_engine.storage import DeviceEvent

QUEUE_MAX = 1000  # events that wait
CLOSE_SECONDS = 5.0  # for what waits, when the program ends
TRIES_MAX = 8  # of one event; with the delays below about two minutes
DELAY_FIRST, DELAY_MAX = 1.0, 60.0  # seconds between tries; doubled each time

# Sends body and headers; the status of the answer, 0 if there was none.
Post = Callable[[bytes, Mapping[str, str]], Awaitable[int]]
_log = logs.get("webhook")


def signature(secret: str, moment: int, body: bytes) -> str:
    """The field's value. An empty secret signs nothing and gives ""."""
    if not secret:
        return ""
    code = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    return f"t={moment},v1={code.hexdigest()}"


class Webhook:
    def __init__(
        self,
        post: Post,
        secret: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._post = post
        self.secret = secret  # may change while it runs
        self._clock = clock
        self._sleep = sleep
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()  # nothing waits
        self._idle.set()
        self.sent = 0
        self.failed = 0  # tries
        self.dropped = 0

    def put(self, device: str, event: DeviceEvent) -> None:
        """Queue an event; the oldest that waits makes room."""
        body = msgspec.json.encode(
            {
                "id": uuid.uuid4().hex,
                "type": f"device.{event.kind}",
                "time": event.at,
                "device": device,
                "device_id": event.device_id,
                "address": event.address,
                "reason": event.reason,
            }
        )
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
            _log.error("webhooks lost, the server ends", count=left)

    async def _deliver(self, body: bytes) -> None:
        delay = DELAY_FIRST
        for number in range(1, TRIES_MAX + 1):
            moment = int(self._clock())  # of this try: receivers refuse what is old
            headers = {"Content-Type": "application/json"}
            signed = signature(self.secret, moment, body)
            if signed:
                headers["Proxy-Engine-Signature"] = signed
            status = await self._post(body, headers)
            if 200 <= status < 300:
                self.sent += 1
                return
            self.failed += 1
            _log.warning("webhook not delivered", status=status, attempt=number)
            if number < TRIES_MAX:
                await self._sleep(delay)
                delay = min(2 * delay, DELAY_MAX)
        self.dropped += 1
        _log.error("webhook given up", tries=TRIES_MAX)
