"""SIGINT and SIGTERM: the first asks for a clean end, the second ends at once. SIGHUP: reload."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from proxy_engine import logs
from proxy_engine.errors import EXIT_FAILURE, EXIT_OK

_log = logs.get("cli")


class Hangups:
    """SIGHUP, from the first moment of a program on: whoever tells it to reload while it starts
    must not end it, and is not forgotten."""

    def __init__(self) -> None:
        self._is_one_waiting = False
        signal.signal(signal.SIGHUP, self._wait)

    def _wait(self, *_: object) -> None:
        self._is_one_waiting = True

    def answer(self, reload: Callable[[], object]) -> None:
        """From now on, in the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        if self._is_one_waiting:
            reload()


class Signals:
    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self._second if self._first.is_set() else self._first).set()

    async def first(self) -> None:
        await self._first.wait()

    async def finish(self, work: Coroutine[Any, Any, None]) -> int:
        """Run the clean end; the exit code. Cut short by a second signal."""
        clean = asyncio.create_task(work)
        second = asyncio.create_task(self._second.wait())
        await asyncio.wait({clean, second}, return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        if clean.done():
            clean.result()
            return EXIT_OK
        clean.cancel()
        _log.warning("second signal, ending at once")
        return EXIT_FAILURE
