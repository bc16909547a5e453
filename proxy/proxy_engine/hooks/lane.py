"""One hook's own way: a bounded queue, and the workers that empty it.

                      put()                    await method(event)         async
    event ─▶ dropped if full, else queue ─▶ worker ┤
                                                   └ its thread: method(event)   plain
                                                        │
    a call that is late: its worker is given up, another one goes on with the queue

A worker is a task that lives as long as there is something to do. One timer of the lane looks
for calls that are late, so a call that is not costs no timer. An async call that is late is
cancelled; a thread can not be stopped, so it is left alone until it returns. Of workers that do
not come back a lane has LOST_MAX at most: then it is stuck, and takes nothing until one returns.

Everything but the plain methods themselves runs on the event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from proxy_engine.hooks.errors import HookError, HookTimeout, Refuse

LOST_MAX = 8  # calls that neither return nor can be ended

# Called with what came of a call: None, or what is wrong.
Done = Callable[["HookError | None"], None]


class Call(NamedTuple):
    method: Callable[[Any], Any]
    name: str  # "on_request"
    is_async: bool
    event: object
    weight: int
    done: Done
    is_wanted: Callable[[], bool] | None = None  # False: nobody waits for the answer any more


class Lane:
    """
    Args:
        name: of the hook.
        timeout: seconds for one call; read anew for each.
    """

    def __init__(
        self, name: str, *, workers: int, queue_max: int, timeout: Callable[[], float]
    ) -> None:
        self.name = name
        self.calls = self.errors = self.timeouts = self.dropped = 0
        self.waiting = 0  # weight of what is queued
        self._workers_max = workers
        self._queue_max = queue_max
        self._timeout = timeout
        self._queue: deque[Call] = deque()
        self._workers: set[_Worker] = set()
        self._lost: set[_Worker] = set()
        self._threads: list[_Thread] = []  # that have nothing to do
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False

    @property
    def is_stuck(self) -> bool:
        return len(self._lost) >= LOST_MAX

    def put(self, call: Call) -> bool:
        """Queue a call. False: there is no room, and it is counted as dropped."""
        # One call alone always fits, however many requests it has.
        if self._is_closed or (self._queue and self.waiting + call.weight > self._queue_max):
            self.dropped += call.weight
            return False
        self._queue.append(call)
        self.waiting += call.weight
        if len(self._workers) < self._workers_max:
            self._hire()
        return True

    async def settle(self, seconds: float) -> None:
        """Until nothing waits or runs, at most this long."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass

    async def close(self) -> int:
        """End it. Returns the weight of what was not done."""
        self._is_closed = True
        left, self.waiting = self.waiting, 0
        self.dropped += left
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        workers = [*self._workers, *self._lost]
        for worker in workers:
            worker.task.cancel()
        if workers:  # those that take no notice are left behind
            await asyncio.wait([worker.task for worker in workers], timeout=0.1)
        for thread in self._threads:
            thread.end()
        return left

    def _hire(self) -> None:
        if self.is_stuck:
            return
        self._idle.clear()
        worker = _Worker()
        self._workers.add(worker)
        worker.task = asyncio.get_running_loop().create_task(
            self._work(worker), name=f"hook-{self.name}"
        )

    async def _work(self, worker: _Worker) -> None:
        try:
            while self._queue and not worker.is_lost:
                call = self._queue.popleft()
                self.waiting -= call.weight
                if call.is_wanted is None or call.is_wanted():
                    await self._do(worker, call)
        finally:
            self._let_go(worker)

    async def _do(self, worker: _Worker, call: Call) -> None:
        worker.call = call
        worker.ends_at = asyncio.get_running_loop().time() + self._timeout()
        if self._timer is None:
            self._watch()
        error: BaseException | None = None
        try:
            if call.is_async:
                await call.method(call.event)
            else:
                if worker.thread is None:
                    worker.thread = self._threads.pop() if self._threads else _Thread(self.name)
                await worker.thread.run(call.method, call.event)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if worker.is_lost or (task is not None and task.cancelling()):
                raise
            error = cancelled  # the hook's own
        except BaseException as raised:  # SystemExit in a hook must not end the server either
            error = raised
        worker.call = None
        if not worker.is_lost:
            self._finish(call, error)

    def _finish(self, call: Call, error: BaseException | None) -> None:
        self.calls += 1
        call.done(None if error is None else self.fault(call.name, error))

    def fault(self, where: str, error: BaseException) -> HookError:
        """What is said of an error that a hook raised."""
        if isinstance(error, Refuse) and where in ("on_device_connect", "on_tunnel_open"):
            return error
        self.errors += 1
        text = f"{self.name}.{where}: {type(error).__name__}: {error}"
        found = HookError(text, hook=self.name)
        found.__cause__ = error
        return found

    # Calls that are late

    def _watch(self) -> None:
        """Look again when the first of those that run now is late."""
        ends = [worker.ends_at for worker in self._workers if worker.call is not None]
        self._timer = None
        if ends and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_at(min(ends), self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for worker in list(self._workers):
            if worker.call is not None and worker.ends_at <= now:
                self._give_up(worker, worker.call)
        self._watch()

    def _give_up(self, worker: _Worker, call: Call) -> None:
        worker.is_lost = True
        self._workers.discard(worker)
        self._lost.add(worker)
        worker.task.cancel()
        self.calls += 1
        self.errors += 1
        self.timeouts += 1
        text = f"{self.name}.{call.name}: not done within {self._timeout():g} seconds"
        call.done(HookTimeout(text, hook=self.name))
        if self._queue:
            self._hire()

    def _let_go(self, worker: _Worker) -> None:
        """A worker's task has ended; its thread may not have."""
        self._workers.discard(worker)
        thread = worker.thread
        if thread is not None and thread.is_busy:
            thread.when_free = lambda: self._found(worker)
            return
        self._found(worker)

    def _found(self, worker: _Worker) -> None:
        self._lost.discard(worker)
        if worker.thread is not None:
            if self._is_closed:
                worker.thread.end()
            else:
                self._threads.append(worker.thread)
        if self._queue and not self._workers:
            self._hire()
        if not self._queue and not self._workers:
            self._idle.set()


class _Worker:
    __slots__ = ("call", "ends_at", "is_lost", "task", "thread")

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.call: Call | None = None  # that runs
        self.ends_at = 0.0
        self.is_lost = False
        self.thread: _Thread | None = None


class _Thread:
    """Runs plain methods, one at a time. A daemon: one that hangs does not keep the program."""

    def __init__(self, name: str) -> None:
        self.is_busy = False
        self.when_free: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._todo: queue.SimpleQueue[tuple[Callable[[Any], Any], object, Any] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name=f"hook-{name}"[:15], daemon=True).start()

    async def run(self, method: Callable[[Any], Any], event: object) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self.is_busy = True
        self._todo.put((method, event, future))
        await future

    def end(self) -> None:
        self._todo.put(None)

    def _work(self) -> None:
        while (todo := self._todo.get()) is not None:
            method, event, future = todo
            error: BaseException | None = None
            try:
                method(event)
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._done, future, error)
            except RuntimeError:  # the loop is closed: nobody asks any more
                return
            del todo, method, event, future, error  # nothing is kept while there is nothing to do

    def _done(self, future: asyncio.Future[None], error: BaseException | None) -> None:
        self.is_busy = False
        if not future.done():
            if error is None:
                future.set_result(None)
            elif isinstance(error, StopIteration):  # which no future takes
                future.set_exception(RuntimeError("StopIteration"))
            else:
                future.set_exception(error)
        free, self.when_free = self.when_free, _nothing
        free()


def _nothing() -> None:
    """Nobody waits for it."""
