"""Asks and tells the hooks of one server.

Two strategies:

    ask()   stop on error       one hook after the other, awaited; the first that refuses or fails
                                ends it. Starting is asked too.
    tell()  collect and go on   every hook gets the event into its own queue (lane.py) and nobody
                                waits. The errors of one event come together in one ExceptionGroup,
                                to the log and to on_error.

A hook is only known by the methods that it overrides, so an event that nobody wants costs one
look into a dict.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from proxy_engine import logs
from proxy_engine.errors import suggestion
from proxy_engine.hooks.errors import HookError, HookTimeout, Refuse
from proxy_engine.hooks.events import Failure, ServerEvent
from proxy_engine.hooks.hook import Hook, is_inline
from proxy_engine.hooks.lane import Call, Lane

EVENTS = tuple(name for name in vars(Hook) if name.startswith("on_"))
ASKED = ("on_device_connect", "on_tunnel_open")
ASK_WORKERS = 32  # questions that one hook is asked at once; the others wait
ASK_QUEUE = 10_000  # ... so many; beyond, it is as if the hook had failed
ASK_SECONDS = 8.0  # for all hooks together: the engine answers a device itself after 10
GROUP_SECONDS = 1.0  # errors of one event that are later than this after its first are told apart
CLOSE_SECONDS = 5.0  # for what waits, when the server ends
SLOW_INLINE = 0.01  # seconds; an inline method that takes longer is counted and logged
LOG_SECONDS = 1.0  # between two lines about one hook; what is between is counted

_log = logs.get("hooks")


class Status(NamedTuple):
    """One hook, as it is now. Counters since it was loaded."""

    name: str
    events: tuple[str, ...]  # that it is asked and told, without "on_"
    calls: int
    errors: int  # calls that failed, those that timed out with them
    timeouts: int
    refusals: int
    dropped: int  # events that found no room in its queue, or were left when it ended
    slow: int  # inline calls that held the event loop for more than 10 ms
    waiting: int  # events in its queue
    is_stuck: bool  # so many calls hang that no more are made


class _Seat:
    """A hook, its lanes and its numbers."""

    def __init__(self, hook: Hook, timeout: Callable[[], float]) -> None:
        if not isinstance(hook, Hook):
            raise HookError(f"{hook!r} is no hook: make an object of a class derived from Hook")
        self.hook = hook
        self.name = hook.name or type(hook).__name__
        self.events = overridden(hook, self.name)
        limit: Callable[[], float] = lambda: hook.timeout or timeout()  # noqa: E731
        self.timeout = limit
        make = partial(Lane, self.name, timeout=limit)
        self.told = make(workers=hook.workers, queue_max=hook.queue)
        self.asked = make(workers=ASK_WORKERS, queue_max=ASK_QUEUE, batch_max=1)
        self.refusals = self.slow = self.inline_calls = 0
        self.is_started = False
        self._logged_at = -LOG_SECONDS
        self._unsaid = 0  # lines

    def status(self) -> Status:
        lanes = self.told, self.asked
        return Status(
            name=self.name,
            events=tuple(event.removeprefix("on_") for event in self.events),
            calls=self.inline_calls + sum(lane.calls for lane in lanes),
            errors=sum(lane.errors for lane in lanes),
            timeouts=sum(lane.timeouts for lane in lanes),
            refusals=self.refusals,
            dropped=sum(lane.dropped for lane in lanes),
            slow=self.slow,
            waiting=sum(lane.waiting for lane in lanes),
            is_stuck=any(lane.is_stuck for lane in lanes),
        )

    def log(self, message: str, **fields: Any) -> None:
        now = time.monotonic()
        if now - self._logged_at < LOG_SECONDS:
            self._unsaid += 1
            return
        self._logged_at = now
        if self._unsaid:
            fields["unsaid"] = self._unsaid
            self._unsaid = 0
        _log.error(message, hook=self.name, **fields)


class _Way(NamedTuple):
    """How one event comes to one hook."""

    seat: _Seat
    method: Callable[[Any], Any]
    is_async: bool
    is_inline: bool


class _Round:
    """One event on its way to several hooks, and what went wrong there."""

    __slots__ = ("errors", "manager", "name", "pending", "timer")

    def __init__(self, manager: Manager, name: str, pending: int) -> None:
        self.manager = manager
        self.name = name
        self.pending = pending
        self.errors: list[HookError] = []
        self.timer: asyncio.TimerHandle | None = None

    def done(self, error: HookError | None) -> None:
        self.pending -= 1
        if error is not None:
            self.errors.append(error)
        if not self.errors:
            return
        if self.pending == 0:
            self.report()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(GROUP_SECONDS, self.report)

    def report(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        errors, self.errors = self.errors, []
        self.manager.failed(self.name, errors)


class Manager:
    """
    Args:
        timeout: seconds for one call of a hook that says nothing else; read for each.
        clock: seconds since the epoch.
    Raises: HookError for a hook that is none, or has a method that is nearly one of Hook's.
    """

    def __init__(
        self,
        hooks: Sequence[Hook] = (),
        *,
        timeout: Callable[[], float] = lambda: 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._seats: list[_Seat] = []
        self._ways: dict[str, tuple[_Way, ...]] = {}
        self._gone = [0] * 5  # numbers of hooks that were taken away
        self._sit([_Seat(hook, timeout) for hook in hooks])

    def __iter__(self) -> Iterator[Status]:
        return (seat.status() for seat in self._seats)

    @property
    def hooks(self) -> list[Hook]:
        """In order."""
        return [seat.hook for seat in self._seats]

    def wants(self, name: str) -> bool:
        """Whether a hook is asked or told this: "on_request"."""
        return name in self._ways

    def _sit(self, seats: list[_Seat]) -> None:
        seats.sort(key=lambda seat: seat.hook.order)
        self._seats = seats
        self._ways = {}
        for name in EVENTS:
            ways = tuple(_way(seat, name) for seat in seats if name in seat.events)
            if ways:
                self._ways[name] = ways

    # Beginning and end

    async def start(self, event: ServerEvent) -> None:
        """Raises HookError: the first that could not start; those before it were stopped."""
        try:
            for seat in self._seats:
                await self._start(seat, event)
        except HookError:
            await self.close(event)
            raise

    async def _start(self, seat: _Seat, event: ServerEvent) -> None:
        if "on_server_start" in seat.events:
            try:
                await self._ask(_way(seat, "on_server_start"), "on_server_start", event)
            except HookError as error:
                if not seat.hook.fail_open:
                    raise
                self.failed("on_server_start", [error])
        seat.is_started = True

    async def close(self, event: ServerEvent) -> None:
        """Give what waits a few seconds, then stop the hooks in reverse order."""
        await self._stop(self._seats, event)
        self._sit([])

    async def _stop(self, seats: Sequence[_Seat], event: ServerEvent) -> None:
        await asyncio.gather(*(seat.told.settle(CLOSE_SECONDS) for seat in seats))
        errors: list[HookError] = []
        for seat in reversed(seats):
            if seat.is_started and "on_server_stop" in seat.events:
                try:
                    await self._ask(_way(seat, "on_server_stop"), "on_server_stop", event)
                except HookError as error:
                    errors.append(error)
        if errors:
            self.failed("on_server_stop", errors)
            await asyncio.gather(*(seat.told.settle(1.0) for seat in seats))
        for seat in seats:
            left = await seat.told.close() + await seat.asked.close()
            if left:
                _log.error("hook events lost, it ends", hook=seat.name, count=left)
            self._gone = [sum(pair) for pair in zip(self._gone, _numbers(seat), strict=True)]

    def check(self, hooks: Sequence[Hook]) -> None:
        """Whether these could be used. Raises HookError."""
        for hook in hooks:
            _Seat(hook, self._timeout)

    async def replace(self, hooks: Sequence[Hook], event: ServerEvent) -> None:
        """From now on it is these. Those that stay are not stopped; those that can not start
        are left out, which is logged and told to on_error."""
        present = {id(seat.hook): seat for seat in self._seats}
        seats, errors = [], []
        for hook in hooks:
            seat = present.pop(id(hook), None) or _Seat(hook, self._timeout)
            try:
                if not seat.is_started:
                    await self._start(seat, event)
            except HookError as error:
                errors.append(error)
                present[id(hook)] = seat  # its lanes are closed like those of others
                continue
            seats.append(seat)
        self._sit(seats)
        _log.info("hooks changed", hooks=",".join(seat.name for seat in self._seats))
        await self._stop(list(present.values()), event)
        if errors:
            self.failed("on_server_start", errors)

    # Asking

    async def ask(self, name: str, event: object) -> None:
        """Ask all hooks, in order.

        Raises: Refuse if one refuses, HookError if one fails that has to answer.
        """
        deadline = asyncio.get_running_loop().time() + ASK_SECONDS
        for way in self._ways.get(name, ()):
            try:
                await self._ask(way, name, event, deadline)
            except Refuse:
                way.seat.refusals += 1
                raise
            except HookError as error:
                self.failed(name, [error])
                if not way.seat.hook.fail_open:
                    raise

    async def _ask(
        self, way: _Way, name: str, event: object, deadline: float | None = None
    ) -> None:
        seat = way.seat
        if way.is_inline:
            error = self._call(way, name, event)
            if error is not None:
                raise error
            return
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[HookError | None] = loop.create_future()

        def done(error: HookError | None) -> None:
            if not answer.done():
                answer.set_result(error)

        call = Call(way.method, name, way.is_async, event, 1, done, lambda: not answer.done())
        if seat.asked.is_stuck or not seat.asked.put(call):
            text = f"{seat.name}.{name}: too many of its calls hang already"
            raise HookError(text, hook=seat.name)
        if deadline is None:
            deadline = loop.time() + seat.timeout() + 1.0  # the lane ends it before that
        try:
            async with asyncio.timeout_at(deadline):
                error = await answer
        except TimeoutError:
            error = HookTimeout(f"{seat.name}.{name}: no answer in time", hook=seat.name)
        if error is not None:
            raise error

    # Telling

    def tell(self, name: str, event: object, weight: int = 1) -> None:
        """Hand an event to all hooks that want it. Returns at once.

        Args:
            weight: of the event in queues: how many requests it has.
        """
        ways = self._ways.get(name)
        if ways is None:
            return
        done = _Round(self, name, len(ways)).done
        for way in ways:
            self._tell(way, name, event, weight, done)

    def tell_each(self, name: str, choose: Callable[[Hook], tuple[object, int]]) -> None:
        """tell() with an event and a weight for each hook; a weight of 0: nothing."""
        ways = self._ways.get(name, ())
        done = _Round(self, name, len(ways)).done
        for way in ways:
            event, weight = choose(way.seat.hook)
            if weight:
                self._tell(way, name, event, weight, done)
            else:
                done(None)

    def _tell(
        self,
        way: _Way,
        name: str,
        event: object,
        weight: int,
        done: Callable[[HookError | None], None],
    ) -> None:
        if way.is_inline:
            done(self._call(way, name, event))
            return
        seat = way.seat
        if not seat.told.put(Call(way.method, name, way.is_async, event, weight, done)):
            done(None)
            seat.log("hook events dropped", event=name, dropped=seat.told.dropped)

    def _call(self, way: _Way, name: str, event: object) -> HookError | None:
        seat = way.seat
        seat.inline_calls += 1
        began = time.perf_counter()
        found: HookError | None = None
        try:
            way.method(event)
        except BaseException as error:
            found = seat.told.fault(name, error)
        if time.perf_counter() - began > SLOW_INLINE:
            seat.slow += 1
            seat.log("an inline hook holds the event loop", event=name)
        return found

    def failed(self, name: str, errors: Sequence[HookError]) -> None:
        """These hooks failed in one event: logged, and told to on_error."""
        for error in errors:
            seat = next((each for each in self._seats if each.name == error.hook), None)
            if seat is not None:
                seat.log("hook failed", event=name, error=error)
            else:
                _log.error("hook failed", hook=error.hook, event=name, error=error)
        if name == "on_error":
            return  # or it would go on for ever
        group = ExceptionGroup(f"hooks failed in {name}", errors)
        self.report(Failure(at=self._clock(), source="hook", where=name, error=group))

    def report(self, failure: Failure) -> None:
        """Tell on_error."""
        self.tell("on_error", failure)

    # Numbers

    def stats(self) -> dict[str, int]:
        """Of all hooks together, those that were taken away as well; and their own."""
        totals = [sum(each) for each in zip(self._gone, *map(_numbers, self._seats), strict=True)]
        names = ("calls", "errors", "timeouts", "refusals", "dropped")
        found = {f"hook_{name}": total for name, total in zip(names, totals, strict=True)}
        found["hooks"] = len(self._seats)
        found["hook_waiting"] = sum(seat.status().waiting for seat in self._seats)
        found["hooks_stuck"] = sum(seat.status().is_stuck for seat in self._seats)
        for seat in self._seats:
            try:
                own = seat.hook.stats()
                more = {f"hook_{seat.name}_{key}": int(value) for key, value in own.items()}
            except Exception as error:
                seat.log("hook failed", event="stats", error=error)
                continue
            found |= more
        return found


def _numbers(seat: _Seat) -> list[int]:
    status = seat.status()
    return [status.calls, status.errors, status.timeouts, status.refusals, status.dropped]


def _way(seat: _Seat, name: str) -> _Way:
    method = getattr(seat.hook, name)
    is_async = inspect.iscoroutinefunction(method)
    return _Way(seat, method, is_async, not is_async and is_inline(method))


def overridden(hook: Hook | type[Hook], name: str) -> tuple[str, ...]:
    """The events that a hook, or a class of hooks, wants. Raises HookError for a method that is
    nearly one."""
    for attribute in dir(hook):
        if attribute.startswith("on_") and attribute not in EVENTS:
            near = suggestion(attribute, EVENTS)
            raise HookError(f"{name}.{attribute} is no event of hooks{near}")
    kind = hook if isinstance(hook, type) else type(hook)
    return tuple(
        event
        for event in EVENTS
        if event in vars(hook) or getattr(kind, event) is not getattr(Hook, event)
    )
