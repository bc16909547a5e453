"""Where CPU time goes: a profile of all threads of this process as folded stacks.

    engine-0;io.worker.worker_run;io.worker.take_events;...;__send 1200000
    MainThread;proxy_engine.__main__.<module>;...;RequestLog.put 40000

A line is a stack, the outermost first, and the microseconds of CPU time seen in it: what
flamegraph.pl and speedscope read. Workers are sampled by timers on their own CPU time
(proxy_engine_core/io/sampler.h), so an idle one costs nothing and appears nowhere. Python's
threads are looked at from another one, each look weighed by the CPU time that the thread has used
since the one before: who waits weighs nothing.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from proxy_engine.diagnosis.symbols import Symbols

if TYPE_CHECKING:
    from types import FrameType

    from proxy_engine_core.inspector import Inspector

DEPTH_MAX = 128  # frames of a Python stack
# Between a thread and what it runs; nobody asked for these.
_OUTERMOST = ("clone", "clone3", "__clone", "__clone3", "start_thread", "libc.so.6", "?")


class Profile(NamedTuple):
    stacks: dict[tuple[str, ...], int]  # microseconds of CPU time
    lost: int  # samples for which there was no room

    def folded(self) -> str:
        lines = sorted((";".join(stack), us) for stack, us in self.stacks.items())
        return "".join(f"{stack} {us}\n" for stack, us in lines)


class CpuProfile:
    """One under way. The native half is one of a kind in this process.

    Args:
        rate: samples a second of CPU time.
    Raises: OSError (EBUSY) if there is one already.
    """

    def __init__(self, inspector: Inspector, rate: int) -> None:
        self._inspector = inspector
        self._period_us = 1_000_000 // rate
        inspector.profile_start(self._period_us)
        self._python = PythonSampler(1 / rate)
        self._python.start()

    def stop(self) -> None:
        """Throw it away. Idempotent."""
        self._python.stop()
        with contextlib.suppress(RuntimeError):
            self._inspector.profile_stop()

    def finish(self) -> Profile:
        """Blocks for as long as the names take: not on the loop. Raises RuntimeError if the
        engine has stopped meanwhile."""
        self._python.stop()
        samples, lost = self._inspector.profile_stop()
        symbols = Symbols()
        stacks = Counter(self._python.stacks)
        for (worker, packed), periods in samples.items():
            counters = [each[0] for each in struct.iter_unpack("@Q", packed)]
            stacks[(f"engine-{worker}", *inner(symbols.stack(counters)))] += (
                periods * self._period_us
            )
        return Profile(dict(stacks), lost)


def inner(stack: list[str]) -> list[str]:
    """Without what every thread begins with."""
    while stack and stack[0] in _OUTERMOST:
        stack = stack[1:]
    return stack


class PythonSampler:
    def __init__(self, period: float) -> None:
        self.stacks: Counter[tuple[str, ...]] = Counter()
        self._period = period
        self._used: dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="profiler", daemon=True)

    def start(self) -> None:
        self._look()
        self.stacks.clear()
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._period):
            self._look()

    def _look(self) -> None:
        ours = threading.get_ident()
        frames = sys._current_frames()
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if frame is None or thread.ident == ours or thread.native_id is None:
                continue
            used = cpu_ns(thread.native_id)
            us = (used - self._used.get(thread.native_id, used)) // 1000
            if us > 0:
                self.stacks[(thread.name, *python_stack(frame))] += us
            if us > 0 or thread.native_id not in self._used:
                self._used[thread.native_id] = used


def cpu_ns(thread: int) -> int:
    """CPU time of a thread of ours by its kernel id; 0 if it is gone.

    The clock is what pthread_getcpuclockid() makes of the id (clock_getcpuclockid(3)); that call
    may crash for a thread that has just ended, this one fails.
    """
    try:
        return time.clock_gettime_ns(~thread << 3 | 6)
    except OSError:
        return 0


def python_stack(frame: FrameType | None) -> list[str]:
    """Names, the outermost first."""
    names: list[str] = []
    while frame is not None and len(names) < DEPTH_MAX:
        code = frame.f_code
        names.append(f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname}")
        frame = frame.f_back
    # A name may hold what separates names.
    return [name.replace(";", ":").replace(" ", "_") for name in reversed(names)]
