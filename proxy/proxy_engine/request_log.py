"""Finished requests on their way from the engine to the store.

Records stay packed all the way (docs/adr/0009): put() only appends a batch to a queue, a
task joins what is queued and hands it to the store, when the oldest has waited
FLUSH_INTERVAL or FLUSH_BYTES are there. Only paths that may hold a secret are looked at.
The queue is bounded; when the store is slower than the traffic, the newest records are
dropped and counted, the data path never waits.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from proxy_engine import logs
from proxy_engine.errors import StorageError
from proxy_engine.storage import Retention, Store
from proxy_engine.text import TOKEN_PREFIX, scrub
from proxy_engine_core import log_batch

if TYPE_CHECKING:
    from proxy_engine.config import Settings

FLUSH_INTERVAL = 0.2  # seconds
FLUSH_BYTES = 512 << 10  # some 3,500 records
QUEUE_BYTES_MAX = 32 << 20
RETRY_INTERVAL = 2.0  # seconds, after the store failed
TRIM_EVERY_ROWS = 10_000

REDACTED = "[redacted]"
SECRET_KEYS = frozenset(
    {"token", "key", "secret", "password", "access_token", "authorization", "signature"}
)
# Only a path with one of these can hold a secret.
SECRET_MARKS = (b"?", TOKEN_PREFIX.encode())
_PAIR = re.compile(r"([?&;])([^=&;]*)=([^&;#]*)")
# A pair whose key is secret as it stands, or may be when decoded: most queries have none.
_SUSPECT = re.compile(rf"[?&;](?:(?:{'|'.join(SECRET_KEYS)})=|[^=&;]*[%+\s])", re.IGNORECASE)

_log = logs.get("request_log")


def redact(path: str) -> str:
    """The path with the values of query keys that usually hold secrets taken out."""
    start = path.find("?")
    if start < 0 or not _SUSPECT.search(path, start):
        return path
    return path[:start] + _PAIR.sub(_redacted, path[start:])


def _redacted(match: re.Match[str]) -> str:
    key = match[2] if "%" not in match[2] and "+" not in match[2] else unquote_plus(match[2])
    if key.strip().lower() not in SECRET_KEYS or not match[3]:
        return match.group()
    return f"{match[1]}{match[2]}={REDACTED}"


def without_secrets(path: str) -> str:
    """The path and query as they may be stored."""
    return scrub(redact(path))


def retention(settings: Settings) -> Retention:
    """What is kept, by the settings."""
    return Retention(
        count=settings.keep_requests,
        age=settings.keep_requests_age,
        size=settings.keep_requests_size,
    )


class RequestLog:
    def __init__(
        self, store: Store, *, keep: Retention, queue_bytes_max: int = QUEUE_BYTES_MAX
    ) -> None:
        self._store = store
        self.keep = keep
        self._queue_bytes_max = queue_bytes_max
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
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

    def put(self, batch: bytes) -> None:
        """Queue packed records, all of them or, when the queue is full, none."""
        if self._queue_bytes + len(batch) > self._queue_bytes_max:
            self.dropped += log_batch.count(batch)
            return
        self._queue.append(batch)
        self._queue_bytes += len(batch)
        self._wake.set()
        if self._queue_bytes >= FLUSH_BYTES:
            self._full.set()

    async def close(self) -> None:
        """Write what is queued, trying once more if the store has failed."""
        self._closing.set()
        self._wake.set()
        self._full.set()
        if self._task is not None:
            await self._task
        if self._queue:
            _log.error("request log rows lost", rows=sum(map(log_batch.count, self._queue)))

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
        """Write what is queued, up to about FLUSH_BYTES. False if the store failed; the
        records stay queued."""
        pieces: list[bytes] = []
        size = 0
        for piece in self._queue:
            if size >= FLUSH_BYTES:
                break
            pieces.append(piece)
            size += len(piece)
        batch = log_batch.rewrite_paths(b"".join(pieces), SECRET_MARKS, without_secrets)
        try:
            count = await self._store.requests_add(batch)
        except StorageError as error:
            if not self.is_failing:
                self.is_failing = True
                _log.error("request log can not be written; records wait", error=error)
            return False
        for _ in pieces:
            self._queue.popleft()
        self._queue_bytes -= size
        self.written += count
        if self.is_failing:
            self.is_failing = False
            waiting = sum(map(log_batch.count, self._queue))
            _log.info("request log is written again", waiting=waiting)
        await self._trim(count)
        return True

    async def _trim(self, rows: int) -> None:
        self._since_trim += rows
        if self._since_trim >= TRIM_EVERY_ROWS:
            self._since_trim = 0
            try:
                await self._store.requests_trim(self.keep, time.time())
            except StorageError as error:
                _log.warning("old requests can not be deleted", error=error)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Until the event is set, at most this long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
