"""Events for whoever iterates: each has a queue of its own, and nobody is waited for."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar
from weakref import WeakSet

T = TypeVar("T")
QUEUE_MAX = 1000  # events that one iterator has not read yet


class EventStream(Generic[T]):
    """The events from its making on, in order; it ends with its source.

    Attributes:
        missed: events that were dropped, the oldest first, because QUEUE_MAX were waiting.
    """

    def __init__(self) -> None:
        self.missed = 0
        self._queue: deque[T] = deque()
        self._wake = asyncio.Event()
        self._is_over = False

    def _put(self, event: T) -> None:
        if len(self._queue) == QUEUE_MAX:
            self._queue.popleft()
            self.missed += 1
        self._queue.append(event)
        self._wake.set()

    def close(self) -> None:
        """End it; what waits can still be read."""
        self._is_over = True
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._queue:
            if self._is_over:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._queue.popleft()


class EventSource(Generic[T]):
    """Streams that nobody holds any more are forgotten."""

    def __init__(self) -> None:
        self._streams: WeakSet[EventStream[T]] = WeakSet()
        self._is_over = False

    def stream(self) -> EventStream[T]:
        stream = EventStream[T]()
        self._streams.add(stream)
        if self._is_over:
            stream.close()
        return stream

    def put(self, event: T) -> None:
        for stream in list(self._streams):
            stream._put(event)

    def close(self) -> None:
        self._is_over = True
        for stream in list(self._streams):
            stream.close()
