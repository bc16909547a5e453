"""Finished requests, as spans, to a collector.

Spans are made of the batches of log records that the engine hands over anyway, in a thread: neither
a request nor the event loop waits for them. What waits is bounded in bytes: while the collector is
down or slower than we are, batches that find no room are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from proxy_engine import failures, logs
from proxy_engine.otlp.delivery import CLOSE_SECONDS, Delivery, partial
from proxy_engine_core import log_batch

if TYPE_CHECKING:
    from proxy_engine.otlp.spans import SpanEncoder
    from proxy_engine_core.core import LogRecord

GATHER = 1.0  # seconds that records wait for others to go with them
TAKE_BYTES = 256 * 1024  # of records that are looked at at once, about 1,500
SPANS_MAX = 512  # of one POST, as in OpenTelemetry's own libraries
TRY_SECONDS = 60.0  # for one POST of spans and its repetitions; then these are given up

_log = logs.get("otlp")


class TracesExport:
    """
    Args:
        packed: the body as it goes over the wire.
        is_sampled: whether a record becomes a span; called in another thread, like encode.
        queue_bytes: of records that may wait.
    """

    def __init__(
        self,
        encode: SpanEncoder,
        packed: Callable[[bytes], bytes],
        delivery: Delivery,
        is_sampled: Callable[[LogRecord], bool],
        queue_bytes: int,
    ) -> None:
        self._encode = encode
        self._packed = packed
        self._is_sampled = is_sampled
        self._queue: deque[bytes] = deque()
        self._most = queue_bytes
        self._wake = asyncio.Event()  # something waits
        self._hurry = asyncio.Event()  # ... and no longer for more
        self._idle = asyncio.Event()  # nothing waits, nothing is being sent
        self._idle.set()
        self._is_closing = False
        self._sending = 0  # records that were taken from the queue and are not counted yet
        self._task: asyncio.Task[None] | None = None
        self.delivery = delivery
        self.waiting = 0  # bytes
        self.sent = 0  # spans
        self.dropped = 0  # ... and records that never became any

    def put(self, batch: bytes) -> None:
        """Packed records (proxy_engine_core.log_batch)."""
        if self.waiting + len(batch) > self._most:
            self.dropped += log_batch.count(batch)
            return
        self._queue.append(batch)
        self.waiting += len(batch)
        self._idle.clear()
        self._wake.set()
        if self.waiting >= TAKE_BYTES:
            self._hurry.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="otlp-traces")

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER):
                    await self._hurry.wait()
            while self._queue:
                try:
                    await self._export(self._take())
                except Exception as error:
                    failures.bug(_log, "otlp", "spans not exported", error)
                    self.dropped += self._sending
                    self._sending = 0
            self._wake.clear()
            self._idle.set()

    def _take(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._queue and size < TAKE_BYTES:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
        self.waiting -= size
        if self.waiting < TAKE_BYTES and not self._is_closing:
            self._hurry.clear()
        return b"".join(parts)

    async def _export(self, batch: bytes) -> None:
        self._sending = log_batch.count(batch)
        records = await asyncio.to_thread(self._sampled, batch)
        self._sending = len(records)
        for first in range(0, len(records), SPANS_MAX):
            part = records[first : first + SPANS_MAX]
            body = await asyncio.to_thread(self._body, part)
            answer = await self.delivery.deliver(body, TRY_SECONDS)
            lost = len(part)
            if answer is not None:
                said = partial(ExportTraceServiceResponse, answer)
                lost = min(lost, said.rejected_spans) if said is not None else 0
            self._sending -= len(part)
            self.dropped += lost
            self.sent += len(part) - lost

    def _sampled(self, batch: bytes) -> list[LogRecord]:
        return [record for record in log_batch.unpack(batch) if self._is_sampled(record)]

    def _body(self, records: list[LogRecord]) -> bytes:
        return self._packed(self._encode(records))

    async def close(self) -> None:
        """Send what waits, if that is quickly done; the rest is dropped and counted."""
        self._is_closing = True
        self._hurry.set()
        if not self.delivery.is_failing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._idle.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        left = self._sending + sum(map(log_batch.count, self._queue))
        if left:
            self.dropped += left
            failures.error(_log, "otlp", "lost", "spans lost, the server ends", count=left)
