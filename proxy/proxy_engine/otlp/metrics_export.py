"""Metrics at an interval: what /metrics would say, to a collector."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from proxy_engine import failures, logs
from proxy_engine.otlp.delivery import CLOSE_SECONDS, Delivery, partial

if TYPE_CHECKING:
    from proxy_engine.metrics.collect import Exporter
    from proxy_engine.otlp.metrics import MetricsEncoder

_log = logs.get("otlp")


class MetricsExport:
    """
    Args:
        packed: the body as it goes over the wire.
        interval: seconds.
    """

    def __init__(
        self,
        exporter: Exporter,
        encode: MetricsEncoder,
        packed: Callable[[bytes], bytes],
        delivery: Delivery,
        interval: float,
    ) -> None:
        self._exporter = exporter
        self._encode = encode
        self._packed = packed
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.delivery = delivery
        self.rejected = 0  # points

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="otlp-metrics")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._interval, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                # What is not taken until the next is due stands in that one, too.
                await self._export(self._interval)
            except Exception as error:
                failures.bug(_log, "otlp", "metrics not exported", error)

    async def _export(self, seconds: float) -> None:
        numbers = await self._exporter.numbers()
        body = await asyncio.to_thread(lambda: self._packed(self._encode(numbers, time.time())))
        answer = await self.delivery.deliver(body, seconds)
        if answer:
            said = partial(ExportMetricsServiceResponse, answer)
            if said is not None:
                self.rejected += said.rejected_data_points

    async def close(self) -> None:
        """Export once more, if that is quickly done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self.delivery.is_failing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._export(0)
