"""Log records for the tests of stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy_engine.storage import Store
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord


def record(number: int, tunnel: int = 0, device: int = 1, **fields: Any) -> LogRecord:
    """Its time is `number` microseconds and its request id says so."""
    made = LogRecord(
        number, tunnel, device, f"r{number}", "::1", "GET", "h", "/", 200, "", 0, 1, 2, 3, 4, 5
    )
    return made._replace(**fields)


def packed(*records: LogRecord) -> bytes:
    return log_batch.pack(records)


async def add(store: Store, numbers: range, make: Callable[[int], LogRecord] = record) -> None:
    assert await store.requests_add(packed(*map(make, numbers))) == len(numbers)
