"""How long the store takes: every call of it, by name."""

from __future__ import annotations

import inspect
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from typing import Any, cast

from proxy_engine.storage import Store

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Timing:
    """Of one call."""

    __slots__ = ("counts", "errors", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.errors = 0


class MeasuredStore:
    """A store, with the time that its calls took. measured() gives it the type of one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.timings: dict[str, Timing] = {}  # of calls that were made

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found
        timed = self._timed(name, found)
        setattr(self, name, timed)  # the next time it is found at once
        return timed

    def _timed(
        self, name: str, call: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def run(*args: Any, **options: Any) -> Any:
            timing = self.timings.get(name) or self.timings.setdefault(name, Timing())
            began = time.perf_counter()
            try:
                return await call(*args, **options)
            except Exception:
                timing.errors += 1
                raise
            finally:
                took = time.perf_counter() - began
                timing.counts[bisect_left(BOUNDS, took)] += 1
                timing.total += took

        return run


def measured(store: Store) -> Store:
    return cast("Store", MeasuredStore(store))
