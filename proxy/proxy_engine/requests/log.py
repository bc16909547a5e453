"""Finished requests on their way from the engine to the store.

    engine -> put() -> queue -> thin, redact -> ready -> store
                                                  |        ^
                                                  v        |
                                               journal ----+   while the store is behind

Records stay packed all the way (docs/adr/0009). put() only appends to a queue; a task joins
what is queued when the oldest has waited FLUSH_INTERVAL or FLUSH_BYTES are there, thins it out,
takes secrets off, and hands it to a second task that writes it to the store. When the store
fails, or does not keep up, the first task appends to a journal on disk instead, and the second
reads from there, so that the order stays. Memory and journal are bounded: beyond both, the
newest records are dropped and counted. The data path never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from proxy_engine import failures, logs
from proxy_engine.errors import StorageError, error_text
from proxy_engine.requests.journal import Journal
from proxy_engine.requests.redaction import MARKS, Redactor
from proxy_engine.storage import RequestQuery, Retention, Store
from proxy_engine_core import log_batch, log_index

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings

FLUSH_INTERVAL = 0.2  # seconds
FLUSH_BYTES = 512 << 10  # some 3,500 records
SPILL_BYTES = 4 << 20  # waiting for the store: more goes to the journal
SLOW_SECONDS = 1.0  # a write that takes longer: what waits goes to the journal
MEMORY_BYTES_MAX = 32 << 20  # queued and waiting: more is dropped
RETRY_INTERVAL = 2.0  # seconds, after the store failed
CLOSE_SECONDS = 5.0  # for the store, when the program ends
TRIM_EVERY_ROWS = 10_000
TRIM_EVERY_SECONDS = 300.0  # ... and what is too old though nothing new comes

_T = TypeVar("_T")
_log = logs.get("request_log")


def retention(settings: Settings) -> Retention:
    """What is kept, by the settings."""
    return Retention(
        count=settings.keep_requests,
        age=settings.keep_requests_age,
        size=settings.keep_requests_size,
    )


class RequestLog:
    def __init__(
        self,
        store: Store,
        *,
        keep: Retention,
        journal: Journal | None = None,
        sample: float = 1.0,
        redactor: Redactor | None = None,
        memory_max: int = MEMORY_BYTES_MAX,
    ) -> None:
        self._store = store
        self.keep = keep
        self._journal = journal
        self.sample = sample
        self._redactor = redactor or Redactor()
        self._memory_max = memory_max
        self._queue: deque[bytes] = deque()  # as the engine gave them
        self._queue_bytes = 0
        self._ready: deque[bytes] = deque()  # as they may be stored; newer than the journal's
        self._ready_bytes = 0
        self._writing_since: float | None = None
        self._turn = asyncio.Lock()  # for the first of `ready` and of the journal
        self._thread = ThreadPoolExecutor(1, "request-log")  # thins, redacts, keeps the journal
        self._wake = asyncio.Event()  # something is queued
        self._full = asyncio.Event()  # ... enough for a flush
        self._work = asyncio.Event()  # something is ready or in the journal
        self._closing = asyncio.Event()
        self._last = asyncio.Event()  # ... and nothing more will be ready
        self._tasks: list[asyncio.Task[None]] = []
        self._ageing: asyncio.Task[None] | None = None
        self._is_unsure = False  # the next batch may be in the store already
        self._since_trim = TRIM_EVERY_ROWS  # trim at the first write too
        self.written = 0
        self.dropped = 0
        self.sampled_out = 0
        self.journaled = 0
        self.replayed = 0
        self.is_failing = False

    def stats(self) -> dict[str, int]:
        """Counters of records, and gauges of bytes."""
        journal = self._journal
        return {
            "request_log_written": self.written,
            "request_log_dropped": self.dropped,
            "request_log_sampled_out": self.sampled_out,
            "request_log_redacted": self._redactor.redacted,
            "request_log_journaled": self.journaled,
            "request_log_replayed": self.replayed,
            "request_log_torn": journal.torn if journal else 0,
            "request_log_journal_bytes": journal.size if journal is not None else 0,
            "request_log_memory_bytes": self._queue_bytes + self._ready_bytes,
        }

    async def start(self) -> None:
        """Raises StorageError if the journal can not be opened."""
        if self._journal is not None:
            try:
                await self._aside(self._journal.open)
            except OSError as error:
                raise StorageError(f"journal of the request log: {error_text(error)}") from None
            if self._journal:
                self._is_unsure = True
                _log.info("requests of an earlier run wait", bytes=self._journal.size)
                self._work.set()
        self._tasks = [
            asyncio.create_task(self._take_in(), name="request-log-in"),
            asyncio.create_task(self._write_out(), name="request-log-out"),
        ]

        self._ageing = asyncio.create_task(self._trim_old(), name="request-log-age")

    def put(self, batch: bytes) -> None:
        """Queue packed records, all of them or, when memory is full, none."""
        if self._queue_bytes + self._ready_bytes + len(batch) > self._memory_max:
            self.dropped += log_batch.count(batch)
            return
        self._queue.append(batch)
        self._queue_bytes += len(batch)
        self._wake.set()
        if self._queue_bytes >= FLUSH_BYTES:
            self._full.set()

    async def close(self) -> None:
        """Write what is queued, to the store or, if that fails or takes too long, to the
        journal, where the next run finds it."""
        if self._ageing is not None:
            self._ageing.cancel()
        self._closing.set()
        self._wake.set()
        self._full.set()
        if self._tasks:
            taking_in, writing_out = self._tasks
            await taking_in
            self._last.set()
            self._work.set()
            await asyncio.wait([writing_out], timeout=CLOSE_SECONDS)
            writing_out.cancel()
            await asyncio.wait([writing_out])
            await self._spill()
        if self._ready:
            rows = sum(map(log_batch.count, self._ready))
            self.dropped += rows
            failures.error(_log, "requests", "lost", "request log rows lost", rows=rows)
        if self._journal is not None:
            await self._aside(self._journal.close)
        self._thread.shutdown()

    async def _aside(self, work: Callable[[], _T]) -> _T:
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._thread, run, work)

    # From the engine

    async def _take_in(self) -> None:
        while not self._closing.is_set():
            # What waits may have to be spilled, whether or not more comes.
            await _within(FLUSH_INTERVAL if self._ready else None, self._wake)
            await _within(FLUSH_INTERVAL, self._full)
            self._wake.clear()
            self._full.clear()
            await self._prepare_all()
            if self._is_behind:
                await self._spill()
        await self._prepare_all()

    async def _prepare_all(self) -> None:
        while self._queue:
            pieces: list[bytes] = []
            size = 0
            while self._queue and size < FLUSH_BYTES:
                pieces.append(self._queue.popleft())
                size += len(pieces[-1])
            batch, sampled_out = await self._aside(partial(self._prepare, pieces))
            self._queue_bytes -= size
            self.sampled_out += sampled_out
            if batch:
                self._ready.append(batch)
                self._ready_bytes += len(batch)
                self._work.set()
            if self._is_behind:
                await self._spill()

    def _prepare(self, pieces: list[bytes]) -> tuple[bytes, int]:
        batch = b"".join(pieces)
        sampled_out = 0
        if self.sample < 1:
            whole, batch = batch, log_index.thin(batch, self.sample)
            sampled_out = log_batch.count(whole) - log_batch.count(batch)
        return log_batch.rewrite_paths(batch, MARKS, self._redactor), sampled_out

    @property
    def _is_behind(self) -> bool:
        """The store does not take what there is: keep it on disk."""
        since = self._writing_since
        return (
            self.is_failing
            or bool(self._journal)  # what comes now is behind it
            or self._ready_bytes > SPILL_BYTES
            or (since is not None and time.monotonic() - since > SLOW_SECONDS)
        )

    async def _spill(self) -> None:
        """Move what is ready, also what is being written right now, into the journal."""
        journal = self._journal
        while journal is not None and self._ready:
            async with self._turn:
                if not self._ready:
                    return
                batch = self._ready[0]
                if not await self._aside(partial(journal.append, batch)):
                    return  # it waits in memory
                self._pop_ready()
            self.journaled += log_batch.count(batch)
            self._work.set()

    def _pop_ready(self) -> None:
        self._ready_bytes -= len(self._ready.popleft())

    # To the store

    async def _write_out(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self.is_failing:
                await _within(RETRY_INTERVAL, self._last)
            while await self._write_next():
                pass
            if self._last.is_set():
                return
            if self._ready or self._journal:  # the store failed: come back to it
                self._work.set()

    async def _write_next(self) -> bool:
        """Write one batch. False if there is none, or the store failed."""
        try:
            async with self._turn:
                batch = await self._next()
            if batch is None:
                return False
            self._writing_since = time.monotonic()
            if self._is_unsure and await self._is_stored(batch):
                count = log_batch.count(batch)
            else:
                count = await self._store.requests_add(batch)
            self._is_unsure = False
        except (StorageError, OSError) as error:
            self._writing_since = None
            self._is_unsure = True
            if not self.is_failing:
                self.is_failing = True
                failures.error(
                    _log,
                    "store",
                    "requests",
                    "request log can not be written; records wait",
                    error=error,
                )
                self._wake.set()  # what is ready is to be spilled
            return False
        self._writing_since = None
        self.written += count
        async with self._turn:
            await self._done(batch, count)
        if self.is_failing:
            self.is_failing = False
            _log.info("request log is written again")
        await self._trim(count)
        return True

    async def _next(self) -> bytes | None:
        if self._journal:
            # Not one that would be begun while we close: the next run reads on.
            return None if self._closing.is_set() else await self._aside(self._journal.head)
        return self._ready[0] if self._ready else None

    async def _is_stored(self, batch: bytes) -> bool:
        """Whether a call that failed, or was cut off with its process, had stored it all the same:
        then its last record is there."""
        last = (await self._aside(partial(log_batch.unpack, batch)))[-1]
        query = RequestQuery(
            request_id=last.request_id, since_us=last.time_us, until_us=last.time_us
        )
        return bool((await self._store.requests_search(query, limit=1)).requests)

    async def _done(self, batch: bytes, count: int) -> None:
        if self._ready and self._ready[0] is batch:
            self._pop_ready()
        elif self._journal is not None:  # it came from there, or was spilled meanwhile
            self.replayed += count
            await self._aside(self._journal.advance)

    async def _trim(self, rows: int) -> None:
        self._since_trim += rows
        if self._since_trim >= TRIM_EVERY_ROWS:
            self._since_trim = 0
            await self._trim_now()

    async def _trim_old(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVERY_SECONDS)
            if self.keep.age:
                await self._trim_now()

    async def _trim_now(self) -> None:
        try:
            await self._store.requests_trim(self.keep, time.time())
        except StorageError as error:
            failures.warning(
                _log, "store", "retention", "old requests can not be deleted", error=error
            )


async def _within(seconds: float | None, event: asyncio.Event) -> None:
    """Until the event is set, at most this long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
