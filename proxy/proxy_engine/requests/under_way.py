"""Requests and connections that are under way, as the engine lists them when it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from proxy_engine.requests.redaction import MARKS
from proxy_engine.storage import Request, RequestQuery
from proxy_engine.storage.packed import packed_filter
from proxy_engine.storage.requests import request_of
from proxy_engine_core import log_batch

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine

OPEN_MAX = 10_000  # of each worker, that a search looks at
PATIENCE = 5.0  # seconds for all workers to answer; they take milliseconds


class _Asked:
    def __init__(self, workers: int) -> None:
        self.workers = workers  # that have not told all
        self.batches: list[bytes] = []
        self.done = asyncio.Event()


class OpenRequests:
    """
    Args:
        tunnels, devices: names by id, of those there are now.
        redact: a path and query as others may see it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tunnels: Callable[[], Mapping[int, str]],
        devices: Callable[[], Mapping[int, str]],
        redact: Callable[[str], str],
    ) -> None:
        self._engine = engine
        self._tunnels = tunnels
        self._devices = devices
        self._redact = redact
        self._asked: dict[int, _Asked] = {}
        self._next_query = 1

    def on_event(self, query: int, batch: bytes, is_last: bool) -> None:
        """EVENT_REQUESTS_OPEN."""
        asked = self._asked.get(query)
        if asked is None:
            return  # nobody waits for it any more
        asked.batches.append(batch)
        asked.workers -= is_last
        if asked.workers == 0:
            asked.done.set()

    async def find(self, query: RequestQuery, limit: int) -> list[Request]:
        """Those that match and began last, at most `limit`; the oldest first. Their ids are 0,
        times and bytes are of now. Raises TimeoutError."""
        batch = await self._ask()
        tunnels, devices = self._tunnels(), self._devices()
        return await asyncio.to_thread(self._match, batch, query, tunnels, devices, limit)

    async def _ask(self) -> bytes:
        query, asked = self._next_query, _Asked(self._engine.workers)
        self._next_query += 1
        self._asked[query] = asked
        try:
            self._engine.requests_open(query, OPEN_MAX)
            async with asyncio.timeout(PATIENCE):
                await asked.done.wait()
        finally:
            del self._asked[query]
        return b"".join(asked.batches)

    def _match(
        self,
        batch: bytes,
        query: RequestQuery,
        tunnels: Mapping[int, str],
        devices: Mapping[int, str],
        limit: int,
    ) -> list[Request]:
        wanted = packed_filter(
            query, devices=_ids(query.device, devices), tunnels=_ids(query.tunnel, tunnels)
        )
        # What was searched is what can be seen: not a secret that is about to be taken out.
        clean = log_batch.rewrite_paths(batch, MARKS, self._redact)
        found = [record for _, record in wanted.find(clean)]
        found.sort(key=lambda record: record.time_us - record.total_us)
        return [
            request_of(
                0,
                record,
                tunnels.get(record.route),
                devices.get(record.device),
                "open",
            )
            for record in found[max(0, len(found) - limit) :]
        ]


def _ids(name: str | None, names: Mapping[int, str]) -> list[int] | None:
    if name is None:
        return None
    return [number for number, other in names.items() if other == name]
