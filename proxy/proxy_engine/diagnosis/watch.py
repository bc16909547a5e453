"""Watches that workers turn and the asyncio loop runs, from a thread of its own.

    stuck   a worker's turn, or what the loop runs, has lasted `stuck` seconds: an error in the
            log with its stack, and the probes fail until it goes on
    slow    with `slow_ms`: a turn or callback that took as long is kept and logged, with where it
            was seen meanwhile

Without `slow_ms` the thread looks a few times in `stuck` seconds and costs nothing. With it
it looks every 50 ms, so a stack is there of what takes 100 ms, and is the one that the time went to
as a rule. How long a worker's turn took is exact: the worker says so itself (slow_turn_ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from proxy_engine import failures, logs
from proxy_engine.diagnosis.cpu import inner, python_stack
from proxy_engine.diagnosis.symbols import Symbols

if TYPE_CHECKING:
    from proxy_engine_core.inspector import Inspector

LOOP = "loop"
KEPT = 100  # slow turns
LOG_EVERY = 1.0  # seconds between two lines about slow turns; what comes between is counted
LOOKS_IN_STUCK = 4
LOOK_FAST = 0.05  # seconds between two looks
KNOWN_MAX = 64  # stacks of turns that have not ended

_log = logs.get("watch")


class SlowTurn(msgspec.Struct, kw_only=True):
    """A turn of a worker, or a callback of the asyncio loop, that took too long."""

    at: Annotated[float, msgspec.Meta(description="when it ended, seconds since the epoch")]
    what: Annotated[str, msgspec.Meta(description="`engine-N` or `loop`")]
    ms: float
    stack: Annotated[
        list[str],
        msgspec.Meta(description="where it was meanwhile, the outermost first; []: not seen"),
    ]


class Stuck(msgspec.Struct, kw_only=True):
    """It does not go on."""

    what: Annotated[str, msgspec.Meta(description="`engine-N` or `loop`")]
    seconds: float
    stack: list[str]


class Watch:
    """
    Args:
        stuck: seconds; 0: nobody minds.
        slow_ms: 0: nothing is slow.
    """

    def __init__(self, inspector: Inspector, *, stuck: float, slow_ms: int = 0) -> None:
        self.slow: deque[SlowTurn] = deque(maxlen=KEPT)
        self.slow_seen = 0  # in all
        self.stuck: dict[str, Stuck] = {}
        self._inspector = inspector
        self._stuck_us = int(stuck * 1e6)
        self._slow_us = slow_ms * 1000
        self._stacks: dict[tuple[str, int], list[str]] = {}  # of turns by what and beginning
        self._asked_us = 0  # the loop, to answer; 0: it has
        self._logged = 0.0
        self._unlogged = 0
        self._done = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="watch", daemon=True
        )

    def start(self) -> None:
        if self._stuck_us or self._slow_us:
            self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_stuck(self) -> bool:
        return bool(self.stuck)

    def on_slow_turn(self, worker: int, us: int, began_us: int) -> None:
        """EVENT_SLOW_TURN."""
        what = f"engine-{worker}"
        self._keep(what, us, self._stacks.pop((what, began_us), []))

    def _keep(self, what: str, us: int, stack: list[str]) -> None:
        turn = SlowTurn(at=time.time(), what=what, ms=us / 1000, stack=stack)
        self.slow.append(turn)
        self.slow_seen += 1
        if turn.at - self._logged < LOG_EVERY:
            self._unlogged += 1
            return
        failures.warning(
            _log,
            "watch",
            "slow",
            "slow turn",
            what=what,
            ms=round(turn.ms),
            stack=_short(stack),
            unlogged=self._unlogged,
        )
        self._logged, self._unlogged = turn.at, 0

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        pause = self._stuck_us / 1e6 / LOOKS_IN_STUCK or LOOK_FAST
        if self._slow_us:
            pause = min(pause, LOOK_FAST)
        while not self._done.wait(pause):
            try:
                self._look(time.monotonic_ns() // 1000)
            except RuntimeError:
                return  # the engine or the loop has ended
            except Exception as error:  # a bug of ours must not end the watch
                failures.bug(_log, "watch", "the watch failed", error)

    def _look(self, now_us: int) -> None:
        for worker, began_us in enumerate(self._inspector.busy_since_us()):
            self._look_at(f"engine-{worker}", began_us, now_us)
        if self._asked_us == 0:
            self._asked_us = now_us
            self._loop.call_soon_threadsafe(self._answer)
        self._look_at(LOOP, self._asked_us, now_us)

    def _answer(self) -> None:
        """In the loop."""
        began_us, now_us = self._asked_us, time.monotonic_ns() // 1000
        took_us = now_us - began_us
        stack = self._stacks.pop((LOOP, began_us), [])
        if self._slow_us and took_us >= self._slow_us:
            self._keep(LOOP, took_us, stack)
        self._asked_us = 0

    def _look_at(self, what: str, began_us: int, now_us: int) -> None:
        took_us = now_us - began_us if began_us else 0
        is_stuck = 0 < self._stuck_us <= took_us
        key = (what, began_us)
        if self._slow_us and took_us >= self._slow_us // 2 and key not in self._stacks:
            if len(self._stacks) >= KNOWN_MAX:
                self._stacks.pop(next(iter(self._stacks)))
            self._stacks[key] = self.stack(what)
        if is_stuck and what not in self.stuck:
            found = Stuck(what=what, seconds=took_us / 1e6, stack=self.stack(what))
            self.stuck[what] = found
            failures.error(
                _log, "watch", "stuck", "it does not turn",
                what=what, seconds=round(found.seconds, 1), stack=_short(found.stack),
            )  # fmt: skip
        elif is_stuck:
            self.stuck[what].seconds = took_us / 1e6
        elif what in self.stuck:
            was = self.stuck.pop(what)
            _log.warning("it turns again", what=what, seconds=round(was.seconds, 1))

    def stack(self, what: str) -> list[str]:
        """Where it is now; [] if that can not be told. From any thread; takes milliseconds."""
        if what == LOOP:
            return python_stack(sys._current_frames().get(self._loop_thread))
        with contextlib.suppress(OSError):
            counters = self._inspector.stack(int(what.removeprefix("engine-")))
            return inner(Symbols().stack(counters))
        return []


def _short(stack: list[str]) -> str:
    """For a line of the log: the innermost first."""
    return " < ".join(reversed(stack[-12:]))


class WatchState(msgspec.Struct, kw_only=True):
    """What is slow, and what is stuck."""

    slow_ms: Annotated[int, msgspec.Meta(description="what counts as slow; 0: nothing")]
    slow_seen: Annotated[int, msgspec.Meta(description="in all, since the start")]
    slow: Annotated[list[SlowTurn], msgspec.Meta(description="the newest of them, oldest first")]
    stuck: list[Stuck]
    status: Literal["ok", "stuck"]
