"""The request log: what was asked, and what became of it."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Request(msgspec.Struct, frozen=True, array_like=False):
    """One stored request, with the names that its numbers stand for."""

    id: int
    time_us: int
    request_id: str
    visitor: str
    method: str
    host: str
    path: str
    status: int
    reason: str
    flags: int
    bytes_in: int
    bytes_out: int
    total_us: int
    first_byte_us: int
    target_us: int
    tunnel: str | None
    device: str | None


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of the request log; 0: no limit."""

    count: int = 0  # the newest requests
    age: float = 0.0  # seconds
    size: int = 0  # bytes of the store's records


class RequestStore(Protocol):
    async def requests_add(self, batch: bytes) -> int:
        """Keep packed records (proxy_engine_core.log_batch); how many there were. Their ids
        follow those of the newest before."""

    async def requests_last(self, limit: int) -> list[Request]:
        """The newest, oldest of them first."""

    async def requests_after(self, request_id: int, limit: int) -> list[Request]: ...
    async def requests_trim(self, retention: Retention, now: float) -> None:
        """Delete what need not be kept. A store may keep somewhat more, never less, and
        gives the space back to the system once there is much of it."""
