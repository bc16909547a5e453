"""Looks at all counters once a minute and keeps what they say, for a week.

Counters begin at 0 with the server; whoever draws a rate takes a fall for a restart. What can
not be kept because the store fails is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from proxy_engine import failures, logs
from proxy_engine.errors import StorageError
from proxy_engine.storage import Metric, Store

INTERVAL = 60.0  # seconds
KEPT = 7 * 86400.0  # seconds
TRIM_EVERY = 60  # looks
TYPE = "server"

_log = logs.get("metrics")


class MetricHistory:
    def __init__(
        self,
        store: Store,
        look: Callable[[], Mapping[str, int | float]],
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._look = look
        self._interval = interval
        self._clock = clock
        self._looks = 0
        self._is_failing = False

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._interval)
            await self.keep()

    async def keep(self) -> None:
        """Look once. Counters of what never happened are left out."""
        now = self._clock()
        values = {name: value for name, value in self._look().items() if value}
        try:
            await self._store.metric_add(Metric(time=now, type=TYPE, values=values))
            if self._looks % TRIM_EVERY == 0:
                await self._store.metrics_trim(now - KEPT)
            self._looks += 1
            self._is_failing = False
        except StorageError as error:
            if not self._is_failing:
                failures.warning(
                    _log, "store", "metrics", "metrics are not kept, the store fails", error=error
                )
            self._is_failing = True
