"""Which lines hold Python's memory: tracemalloc, started, looked at, compared and stopped.

Tracing costs memory and time for each allocation of Python's, so it is off until somebody asks.
The engine's memory is not Python's: its buffers are in the engine dump.
"""

from __future__ import annotations

import tracemalloc
from typing import Annotated, Literal

import msgspec

OURS = tracemalloc.Filter(False, tracemalloc.__file__)
TEXT_MAX = 4096  # characters of a traceback

Count = Annotated[int, msgspec.Meta(description="allocations that are in use")]
Bytes = Annotated[int, msgspec.Meta(description="bytes in use")]


class HeapPlace(msgspec.Struct, kw_only=True):
    """Where memory was allocated."""

    where: Annotated[str, msgspec.Meta(description="FILE:LINE, the innermost last")]
    size: Bytes
    count: Count
    size_change: Annotated[int | None, msgspec.Meta(description="since the last snapshot")] = None
    count_change: Annotated[int | None, msgspec.Meta(description="likewise")] = None


class HeapReport(msgspec.Struct, kw_only=True):
    """The places that hold most, or that have changed most."""

    traced: Annotated[int, msgspec.Meta(description="bytes of Python's memory in use and traced")]
    traced_max: Annotated[int, msgspec.Meta(description="... at most since the start")]
    overhead: Annotated[int, msgspec.Meta(description="bytes that tracing itself takes")]
    places: list[HeapPlace]
    places_total: Annotated[int, msgspec.Meta(description="how many there are in all")]


Group = Literal["lineno", "filename", "traceback"]


class Heap:
    def __init__(self) -> None:
        self._last: tracemalloc.Snapshot | None = None
        self._is_ours = False

    def start(self, frames: int) -> bool:
        """False: it is being traced already."""
        if tracemalloc.is_tracing():
            return False
        tracemalloc.start(frames)
        self._is_ours = True
        return True

    def stop(self) -> bool:
        """False: it was not being traced, or by somebody else."""
        was_ours = self._is_ours and tracemalloc.is_tracing()
        self._last = None
        if was_ours:
            tracemalloc.stop()
        self._is_ours = False
        return was_ours

    def report(self, top: int, group: Group, *, changes: bool) -> HeapReport | None:
        """Take a snapshot. None: nothing is traced, or there is nothing to compare it with.

        Holds the GIL for as long as there is memory: call it from a thread, and rarely.

        Args:
            changes: since the last snapshot, which stays the last; else this is the last one.
        """
        if not tracemalloc.is_tracing() or (changes and self._last is None):
            return None
        now = tracemalloc.take_snapshot().filter_traces([OURS])
        traced, most = tracemalloc.get_traced_memory()
        if changes and self._last is not None:
            found = [_changed(each) for each in now.compare_to(self._last, group)]
        else:
            self._last = now
            found = [_held(each) for each in now.statistics(group)]
        return HeapReport(
            traced=traced,
            traced_max=most,
            overhead=tracemalloc.get_tracemalloc_memory(),
            places=found[:top],
            places_total=len(found),
        )


def _where(traceback: tracemalloc.Traceback) -> str:
    return " > ".join(f"{frame.filename}:{frame.lineno}" for frame in traceback)[-TEXT_MAX:]


def _held(each: tracemalloc.Statistic) -> HeapPlace:
    return HeapPlace(where=_where(each.traceback), size=each.size, count=each.count)


def _changed(each: tracemalloc.StatisticDiff) -> HeapPlace:
    return HeapPlace(
        where=_where(each.traceback),
        size=each.size,
        count=each.count,
        size_change=each.size_diff,
        count_change=each.count_diff,
    )
