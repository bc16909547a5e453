"""Searching batches of finished requests (log_batch) where they stand."""

from collections.abc import Sequence
from typing import Final

from proxy_engine_core.core import LogRecord

STATES: Final[tuple[str, ...]]
"""How a request ended: "open" (it has not), "closed" (complete), "unavailable" (no device or no
target), "timeout" (somebody was too slow), "aborted" (cut off before its end)."""

def state(status: int, flags: int, reason: str) -> str:
    """One of STATES, from what a LogRecord tells."""

def index(batch: bytes) -> bytes:
    """The keys of a batch, for LogFilter.candidates(). Raises: ValueError if it is cut off."""

def span(batch: bytes) -> tuple[int, int]:
    """Earliest and latest time_us of its records; (0, 0) of none. Raises: ValueError."""

def thin(batch: bytes, share: float) -> bytes:
    """A sample: that share (0 to 1) of the records of requests that went well, chosen by their
    request ids, and all others (a status of 400 and above, a reason, or cut off).

    Raises: ValueError if the batch is cut off.
    """

class LogFilter:
    """What a search wants; every argument that is given must hold.

    Args:
        devices, tunnels: ids, any of them.
        status, total_us: least and largest, both included.
        state: one of STATES.
        since_us, until_us: of time_us, both included.
        request_id, visitor, method, host, reason: the whole text.
        path: some text in path or query, in any case.
        trace_id: 32 hexadecimal digits. Raises: ValueError if it is not.
    """

    def __init__(
        self,
        *,
        devices: Sequence[int] | None = None,
        tunnels: Sequence[int] | None = None,
        status: tuple[int, int] = ...,
        state: str | None = None,
        since_us: int = 0,
        until_us: int = ...,
        total_us: tuple[int, int] = ...,
        request_id: str | None = None,
        visitor: str | None = None,
        method: str | None = None,
        host: str | None = None,
        path: str | None = None,
        reason: str | None = None,
        trace_id: str | None = None,
    ) -> None: ...
    @property
    def devices(self) -> tuple[int, ...] | None: ...
    @property
    def tunnels(self) -> tuple[int, ...] | None: ...
    @property
    def is_keyed(self) -> bool:
        """Whether keys can rule records out."""

    def candidates(self, keys: bytes) -> list[tuple[int, int, int]]:
        """Records that may match, by the keys of a batch: the number of each in its batch, its
        offset and its size; -1: to the end of the batch."""

    def find(self, batch: bytes) -> list[tuple[int, LogRecord]]:
        """The records that match, with their numbers in the batch. Raises: ValueError."""

class LogSummary:
    """Counts of records: statuses, states, paths, and durations in buckets 6 % wide."""

    @property
    def count(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def paths(self) -> dict[bytes, int]: ...
    @property
    def other_paths(self) -> int:
        """Records whose path came after the first 100,000 different ones."""

    @property
    def max_us(self) -> int: ...
    def add(self, batch: bytes, wanted: LogFilter | None = None) -> None:
        """Raises: ValueError if the batch is cut off."""

    def status_counts(self) -> dict[int, int]: ...
    def states(self) -> dict[str, int]: ...
    def top_paths(self, limit: int) -> list[tuple[str, int]]:
        """The most frequent, without their queries."""

    def percentile(self, percent: float) -> int:
        """The duration in us that so many per cent of the requests did not exceed; 0 of none."""
