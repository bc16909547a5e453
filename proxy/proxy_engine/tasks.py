"""Background work of one owner: kept until done, logged if it fails, ended with the owner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from proxy_engine import failures, logs
from proxy_engine.errors import StorageError

_log = logs.get("tasks")


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Do all of it, even if whoever waits is cancelled meanwhile; the cancellation comes then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._running.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._running.discard)
        # One that is cancelled before its first step has not even begun the work.
        task.add_done_callback(lambda _: work.close())

    @staticmethod
    async def _guard(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            failures.bug(_log, "task", "task failed", error)

    async def settle(self) -> None:
        """Until nothing runs any more."""
        while self._running:
            await asyncio.gather(*self._running)

    async def close(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def every(seconds: float, work: Callable[[], Awaitable[None]], where: str = "") -> None:
    """Do it again and again. That the store begins to fail is a failure, not each time.

    Args:
        where: of failures.KINDS; "": work that needs no store.
    """
    was_failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
            was_failing = False
        except StorageError as error:
            if not was_failing:
                failures.error(_log, "store", where, "the store fails", error=error)
            was_failing = True
