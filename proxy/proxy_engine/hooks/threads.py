"""A thread that runs plain methods of a hook, some calls at a time.

A hand-over between event loop and thread costs more than most methods do, so a thread is given
what waits, up to a number of calls, and answers once. It may be given up in the middle: then it
begins none of the calls that are left, which are somebody else's.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any


class Batch:
    """Calls that one thread makes, one after the other."""

    def __init__(
        self,
        calls: Sequence[tuple[Callable[[Any], Any], object]],
        future: asyncio.Future[None],
    ) -> None:
        self.calls = calls
        self.future = future  # all are made
        self.errors: list[BaseException | None] = []  # of those that were made
        self.began_at = time.monotonic()  # the one that runs
        self._is_given_up = False
        self._lock = threading.Lock()

    def give_up(self) -> int:
        """Begin no more. Returns how many were finished; the next one may still run."""
        with self._lock:
            self._is_given_up = True
            return len(self.errors)

    def run(self) -> None:
        """In the thread."""
        for method, event in self.calls:
            with self._lock:
                if self._is_given_up:
                    return
                self.began_at = time.monotonic()
            error: BaseException | None = None
            try:
                method(event)
            except BaseException as raised:
                error = raised
            with self._lock:
                if self._is_given_up:
                    return
                self.errors.append(error)


class Thread:
    """A daemon: one that hangs does not keep the program."""

    def __init__(self, name: str) -> None:
        self.is_busy = False
        self.when_free: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._todo: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=f"hook-{name}"[:15], daemon=True).start()

    def begin(self, calls: Sequence[tuple[Callable[[Any], Any], object]]) -> Batch:
        batch = Batch(calls, self._loop.create_future())
        self.is_busy = True
        self._todo.put(batch)
        return batch

    def end(self) -> None:
        self._todo.put(None)

    def _work(self) -> None:
        while (batch := self._todo.get()) is not None:
            batch.run()
            try:
                self._loop.call_soon_threadsafe(self._done, batch)
            except RuntimeError:  # the loop is closed: nobody asks any more
                return
            del batch  # nothing is kept while there is nothing to do

    def _done(self, batch: Batch) -> None:
        self.is_busy = False
        if not batch.future.done():
            batch.future.set_result(None)
        free, self.when_free = self.when_free, _nothing
        free()


def _nothing() -> None:
    """Nobody waits for it."""
