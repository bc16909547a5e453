"""Finished requests on their way from the engine to the store.

put() only appends to a queue. A task writes the queue in batches, when the oldest record
has waited FLUSH_INTERVAL or FLUSH_ROWS are there: one transaction for many rows is what
makes thousands a second cheap. The queue is bounded; when the store is slower than the
traffic, the newest records are dropped and counted, the data path never waits.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from proxy_engine import logs
from proxy_engine.errors import StorageError
from proxy_engine.storage import RequestRow, Store
from proxy_engine.text import scrub

if TYPE_CHECKING:
    from proxy_engine_core.core import LogRecord

FLUSH_INTERVAL = 0.2  # seconds
FLUSH_ROWS = 2000
QUEUE_ROWS_MAX = 100_000  # about 50 MiB at worst
RETRY_INTERVAL = 2.0  # seconds, after the store failed
TRIM_EVERY_ROWS = 10_000

REDACTED = "[redacted]"
SECRET_KEYS = frozenset(
    {"token", "key", "secret", "password", "access_token", "authorization", "signature"}
)
_PAIR = re.compile(r"([?&;])([^=&;]*)=([^&;#]*)")

_log = logs.get("request_log")


def redact(path: str) -> str:
    """The path with the values of query keys that usually hold secrets taken out."""
    start = path.find("?")
    if start < 0:
        return path
    return path[:start] + _PAIR.sub(_redacted, path[start:])


def _redacted(match: re.Match[str]) -> str:
    key = match[2] if "%" not in match[2] and "+" not in match[2] else unquote_plus(match[2])
    if key.strip().lower() not in SECRET_KEYS or not match[3]:
        return match.group()
    return f"{match[1]}{match[2]}={REDACTED}"


def row(record: LogRecord) -> RequestRow:
    """What is stored of a record: all of it, less the secrets in its path and query."""
    path = scrub(record.path if "?" not in record.path else redact(record.path))
    return record if path == record.path else record._replace(path=path)


class RequestLog:
    def __init__(self, store: Store, *, keep: int, queue_rows_max: int = QUEUE_ROWS_MAX) -> None:
        self._store = store
        self._keep = keep
        self._queue_rows_max = queue_rows_max
        self._queue: deque[LogRecord] = deque()
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._since_trim = TRIM_EVERY_ROWS  # trim at the first flush too
        self.written = 0
        self.dropped = 0
        self.is_failing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="request-log")

    def put(self, records: Sequence[LogRecord]) -> None:
        room = self._queue_rows_max - len(self._queue)
        if room < len(records):
            self.dropped += len(records) - max(room, 0)
            records = records[: max(room, 0)]
        self._queue.extend(records)
        if self._queue:
            self._wake.set()
        if len(self._queue) >= FLUSH_ROWS:
            self._full.set()

    async def close(self) -> None:
        """Write what is queued, trying once more if the store has failed."""
        self._closing.set()
        self._wake.set()
        self._full.set()
        if self._task is not None:
            await self._task
        if self._queue:
            _log.error("request log rows lost", rows=len(self._queue))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if self.is_failing:
                await _within(RETRY_INTERVAL, self._closing)
            else:
                await _within(FLUSH_INTERVAL, self._full)
            self._wake.clear()
            self._full.clear()
            while self._queue and await self.flush():
                pass
            if self._closing.is_set():
                return
            if self._queue:  # the store failed: come back to it
                self._wake.set()

    async def flush(self) -> bool:
        """Write one batch. False if the store failed; the batch stays queued."""
        batch = list(islice(self._queue, FLUSH_ROWS))
        try:
            await self._store.requests_add([row(record) for record in batch])
        except StorageError as error:
            if not self.is_failing:
                self.is_failing = True
                _log.error("request log can not be written; records wait", error=error)
            return False
        for _ in batch:
            self._queue.popleft()
        self.written += len(batch)
        if self.is_failing:
            self.is_failing = False
            _log.info("request log is written again", waiting=len(self._queue))
        await self._trim(len(batch))
        return True

    async def _trim(self, rows: int) -> None:
        self._since_trim += rows
        if self._keep and self._since_trim >= TRIM_EVERY_ROWS:
            self._since_trim = 0
            try:
                await self._store.requests_trim(self._keep)
            except StorageError as error:
                _log.warning("old requests can not be deleted", error=error)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Until the event is set, at most this long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
