"""Owns one native engine inside an asyncio loop.

The engine's eventfd becomes readable when there is something to collect; events and log
records are then taken in batches, a bounded number per loop turn so that handshakes and
the API stay responsive under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy_engine import failures, logs
from proxy_engine.diagnosis.service import engine_options
from proxy_engine.errors import ProxyEngineError, UsageError, error_text, suggestion
from proxy_engine.values import TRACES
from proxy_engine_core.core import DEFAULTS, EVENT_DRAINED, EVENT_PRESSURE, WORKERS_MAX, Engine

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from proxy_engine.settings.config import Settings
    from proxy_engine_core.core import Event

EVENTS_PER_TURN = 512
LOG_BYTES_PER_TURN = 1 << 20  # some 7,000 records

_log = logs.get("engine")


def run_async(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where there is one."""
    raise_file_limit()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def usable_cores() -> int:
    """Cores this process may run on, as workers: no more than an engine can have."""
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)


def make_engine(role: str, settings: Settings) -> Engine:
    """An engine with the options of [engine]. Raises UsageError for a wrong one."""
    for name in settings.engine:
        if name not in DEFAULTS:
            raise UsageError(f'unknown engine option "{name}"{suggestion(name, DEFAULTS)}')
    try:
        if role == "server":
            workers = settings.workers or usable_cores()
            options = engine_options(settings)
            if settings.traces != "pass":
                options["trace_mode"] = TRACES.index(settings.traces)
                options["trace_sampled"] = round(1000 * settings.trace_sample)
            options |= settings.engine
            engine = Engine("server", workers=workers, **options)
            for network in settings.trusted_proxy:
                engine.trust(network)
            return engine
        options = settings.engine
        if settings.agent_admin is not None:
            options = engine_options(settings) | options
        return Engine("agent", workers=settings.workers or 1, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise ProxyEngineError(f"the engine can not start: {error_text(error)}") from None


def raise_file_limit() -> None:
    """Every connection is a file: take as many as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # e.g. macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


PRESSURE = (
    "enough again",
    "short: windows grow no more",
    "short: new requests are refused",
    "short: new connections wait",
)


def _log_pressure(level: int, used: int, most: int, what: str) -> None:
    message = f"{what} {PRESSURE[level]}"
    if level:
        failures.warning(_log, "engine", what, message, used=used, most=most)
    else:
        _log.info(message, used=used, most=most)


class EngineRunner:
    """Hands the engine's events to on_event and its log records, packed, to on_logs."""

    def __init__(
        self,
        engine: Engine,
        on_event: Callable[[Event], None],
        on_logs: Callable[[bytes], None] | None = None,
    ) -> None:
        self.engine = engine
        self._on_event = on_event
        self._on_logs = on_logs
        self._loop = asyncio.get_running_loop()
        self._drained = asyncio.Event()
        self._is_running = False

    def start(self) -> None:
        self._is_running = True
        self._loop.add_reader(self.engine.event_fd, self._on_readable)
        self.engine.start()

    def collect(self) -> bool:
        """Take one batch of each kind; whether there may be more events. More log records
        make the eventfd readable again."""
        if not self._is_running:
            return False
        events = self.engine.poll(EVENTS_PER_TURN)
        for event in events:
            if event[0] == EVENT_PRESSURE:
                _log_pressure(*event[1:])
            if event[0] == EVENT_DRAINED:
                self._drained.set()
            try:
                self._on_event(event)
            except Exception as error:  # one bad event must not stop the others
                failures.bug(_log, "event", "event handler failed", error, event=event[0])
        if self._on_logs is not None:
            batch = self.engine.poll_log_batch(LOG_BYTES_PER_TURN)
            if batch:
                self._on_logs(batch)
        return len(events) == EVENTS_PER_TURN

    def _on_readable(self) -> None:
        if self.collect():
            self._loop.call_soon(self._on_readable)

    async def drain(self, grace: float) -> None:
        """Let what is in flight finish, at most this many seconds."""
        self.engine.drain(int(grace * 1000))
        try:
            async with asyncio.timeout(grace + 5):  # the engine keeps time; this is a net
                await self._drained.wait()
        except TimeoutError:
            failures.warning(_log, "engine", "drain", "the engine did not drain in time")

    async def stop(self) -> None:
        """Stop the workers and hand over the last records. Idempotent."""
        if not self._is_running:
            return
        self._loop.remove_reader(self.engine.event_fd)
        self._is_running = False
        # Joining threads blocks for a moment: not on the loop.
        await asyncio.to_thread(self.engine.stop)
        # What a stopped engine still reports of its links needs no action, but every
        # request that was cut off belongs into the log.
        if self._on_logs is not None:
            while batch := self.engine.poll_log_batch(LOG_BYTES_PER_TURN):
                self._on_logs(batch)
