"""One hook's own way: a bounded queue, and the workers that empty it.

                      put()                    await method(event)         async
    event ─▶ dropped if full, else queue ─▶ worker ┤
                                                   └ its thread: method(event)   plain, some
                                                                                 calls at a time
                                                        │
    a call that is late: its worker is given up, another one goes on with the queue

A worker is a task that rests when there is nothing to do. One timer of the lane looks for calls
that are late, so a call that is not costs no timer. An async call that is late is
cancelled; a thread can not be stopped, so it is left alone until it returns. Of workers that do
not come back a lane has LOST_MAX at most: then it is stuck, and takes nothing until one returns.

Everything but the plain methods themselves runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from proxy_engine.hooks.errors import HookError, HookTimeout, Refuse
from proxy_engine.hooks.threads import Batch, Thread

LOST_MAX = 8  # calls that neither return nor can be ended
BATCH_MAX = 64  # plain calls that a thread is given at once, of those that nobody waits for

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
        batch_max: plain calls that a thread is given at once.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int,
        queue_max: int,
        timeout: Callable[[], float],
        batch_max: int = BATCH_MAX,
    ) -> None:
        self.name = name
        self.calls = self.errors = self.timeouts = self.dropped = 0
        self.waiting = 0  # weight of what is queued
        self._workers_max = workers
        self._queue_max = queue_max
        self._batch_max = batch_max if workers == 1 else 1  # they want calls of their own
        self._timeout = timeout
        self._queue: deque[Call] = deque()
        self._workers: set[_Worker] = set()
        self._resting: list[_Worker] = []  # of them
        self._lost: set[_Worker] = set()
        self._threads: list[Thread] = []  # that have nothing to do
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
        if self._resting:
            self._idle.clear()
            self._resting.pop().wake()
        elif len(self._workers) < self._workers_max:
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
        for worker in self._workers:
            self._put_back(worker)
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
            while not worker.is_lost:
                if not self._queue:
                    await self._rest(worker)
                    continue
                call = self._take()
                if call.is_wanted is not None and not call.is_wanted():
                    continue
                if call.is_async:
                    await self._await(worker, call)
                else:
                    await self._run(worker, call)
        finally:
            self._let_go(worker)

    def _take(self) -> Call:
        call = self._queue.popleft()
        self.waiting -= call.weight
        return call

    async def _rest(self, worker: _Worker) -> None:
        self._resting.append(worker)
        if len(self._resting) == len(self._workers):
            self._idle.set()
        worker.rest = asyncio.get_running_loop().create_future()
        await worker.rest

    async def _await(self, worker: _Worker, call: Call) -> None:
        """An async call."""
        worker.calls = (call,)
        worker.began_at = asyncio.get_running_loop().time()
        if self._timer is None:
            self._watch()
        error: BaseException | None = None
        try:
            await call.method(call.event)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if worker.is_lost or (task is not None and task.cancelling()):
                raise
            error = cancelled  # the hook's own
        except BaseException as raised:  # SystemExit in a hook must not end the server either
            error = raised
        worker.calls = ()
        if not worker.is_lost:
            self._finish(call, error)

    async def _run(self, worker: _Worker, first: Call) -> None:
        """A plain call, and those behind it that are plain as well."""
        calls = [first]
        while self._queue and len(calls) < self._batch_max and not self._queue[0].is_async:
            calls.append(self._take())
        if worker.thread is None:
            worker.thread = self._threads.pop() if self._threads else Thread(self.name)
        worker.calls = calls
        worker.batch = worker.thread.begin([(call.method, call.event) for call in calls])
        if self._timer is None:
            self._watch()
        await worker.batch.future
        errors, worker.batch, worker.calls = worker.batch.errors, None, ()
        for call, error in zip(calls, errors, strict=True):
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
        """Look again when the first of those that run now may be late."""
        began = [worker.since for worker in self._workers if worker.calls]
        self._timer = None
        if began and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_at(
                min(began) + self._timeout(), self._look
            )

    def _look(self) -> None:
        late = asyncio.get_running_loop().time() - self._timeout()
        for worker in list(self._workers):
            if worker.calls and worker.since <= late:
                self._give_up(worker)
        self._watch()

    def _give_up(self, worker: _Worker) -> None:
        """The call it makes is late. What it did before counts, what it has not begun waits."""
        call = self._put_back(worker)
        if call is None:
            return
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

    def _put_back(self, worker: _Worker) -> Call | None:
        """What it has not begun waits again. Returns what it makes now; None: it is done."""
        calls, done = worker.calls, 0
        if worker.batch is not None:
            done = worker.batch.give_up()
            if done == len(calls):
                return None
            for call, error in zip(calls, worker.batch.errors, strict=False):
                self._finish(call, error)
        for call in reversed(calls[done + 1 :]):
            self._queue.appendleft(call)
            self.waiting += call.weight
        return calls[done] if calls else None

    def _let_go(self, worker: _Worker) -> None:
        """A worker's task has ended; its thread may not have."""
        self._workers.discard(worker)
        if worker in self._resting:
            self._resting.remove(worker)
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
    __slots__ = ("batch", "began_at", "calls", "is_lost", "rest", "task", "thread")

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.calls: Sequence[Call] = ()  # that it makes now
        self.began_at = 0.0  # an async one, by the clock of the loop
        self.batch: Batch | None = None  # plain ones
        self.thread: Thread | None = None
        self.rest: asyncio.Future[None] | None = None
        self.is_lost = False

    @property
    def since(self) -> float:
        """When the call that it makes now began."""
        return self.began_at if self.batch is None else self.batch.began_at

    def wake(self) -> None:
        if self.rest is not None and not self.rest.done():
            self.rest.set_result(None)
