"""What fails in one server, on its way to on_error: at most one a second of each source and where.

The first is told at once. What comes within a second of it is told together, as its last one with
a count; so a storm costs a hook one event a second, and the end of it is not lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy_engine import failures
from proxy_engine.errors import ProxyEngineError
from proxy_engine.hooks.events import Failure
from proxy_engine.text import scrub

if TYPE_CHECKING:
    from proxy_engine.hooks.manager import Manager

INTERVAL = 1.0  # seconds


class _Told(NamedTuple):
    at: float
    source: str
    where: str
    message: str
    fields: dict[str, Any]


class _Held:
    """What came since one was told."""

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.timer = timer
        self.count = 0
        self.last: _Told | None = None


class FailureFeed:
    """
    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.hooks: Manager | None = None  # nobody is told before it is there
        self._clock = clock
        self._held: dict[tuple[str, str], _Held] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """What is started in this block belongs to this server."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        with failures.heard(self._tell):
            yield

    def close(self) -> None:
        """Tell what is held back, before the hooks end."""
        held, self._held = self._held, {}
        for each in held.values():
            each.timer.cancel()
            self._report_held(each)

    def _tell(self, source: str, where: str, message: str, fields: dict[str, Any]) -> None:
        """From any thread."""
        told = _Told(self._clock(), source, where, message, fields)
        if threading.get_ident() == self._thread:
            self._take(told)
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._take, told)

    def _take(self, told: _Told) -> None:
        if self.hooks is None or not self.hooks.wants("on_error"):
            return
        held = self._held.get((told.source, told.where))
        if held is None:
            self._hold(told)
            self._report(told, 0)
        else:
            held.count += 1
            held.last = told

    def _hold(self, told: _Told) -> None:
        assert self._loop is not None
        key = told.source, told.where
        self._held[key] = _Held(self._loop.call_later(INTERVAL, self._due, key))

    def _due(self, key: tuple[str, str]) -> None:
        held = self._held.pop(key)
        if held.last is not None:
            self._hold(held.last)
            self._report_held(held)

    def _report_held(self, held: _Held) -> None:
        if held.last is not None:
            self._report(held.last, held.count - 1)

    def _report(self, told: _Told, repeats: int) -> None:
        fields = {name: _plain(value) for name, value in told.fields.items() if name != "error"}
        error = told.fields.get("error")
        if not isinstance(error, BaseException):
            error = ProxyEngineError(f"{told.message}: {error}" if error else told.message)
        assert self.hooks is not None
        self.hooks.report(
            Failure(
                at=told.at,
                source=told.source,
                where=told.where,
                error=error,
                message=told.message,
                fields=fields,
                repeats=repeats,
            )
        )


def _plain(value: object) -> object:
    """As it may go to somebody else: no tokens, nothing that JSON does not know."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return scrub(str(value))
