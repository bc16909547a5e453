"""What the control plane keeps, behind one small interface.

Everything is asynchronous, because a store may be on the network; a store on disk runs
its calls in threads of its own. No call may block the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A secret's digest and what it allows. The secret itself is never kept."""

    id: int
    name: str
    kind: str  # "admin" or "device"
    digest: bytes  # SHA-256 of the text form
    device_id: int | None
    device: str | None  # the device's name
    is_blocked: bool  # the device is
    created_at: float  # seconds since the epoch, like all times here
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    created_at: float
    is_blocked: bool
    last_seen_at: float | None


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """A public name. It belongs to the device that registered it first."""

    id: int
    name: str
    kind: str
    device_id: int
    created_at: float


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


class NameTaken(Exception):
    """A unique name is in use already."""


class Store(Protocol):
    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Returns if the store can be read and written now; raises StorageError if not."""

    async def changed_elsewhere(self) -> bool:
        """Whether another process wrote since the last call (true at the first)."""

    async def token_add(
        self,
        *,
        name: str,
        kind: str,
        digest: bytes,
        device: str | None,
        now: float,
        expires_at: float | None,
    ) -> Token:
        """Also creates the device if it is new. Raises NameTaken."""

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        """Those that there are; many at once, because devices come back all at once."""

    async def tokens(self) -> list[Token]: ...
    async def token_revoke(self, name: str, now: float) -> bool:
        """False if there is no live token of this name."""

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, float]) -> None:
        """When tokens were used and devices were there, by id."""

    async def devices(self) -> list[Device]: ...
    async def tunnels(self) -> list[Tunnel]: ...
    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        """Give each (name, kind, device id) that is nobody's yet to its device.

        Returns: the tunnels of all these names; some may be another device's.
        """

    async def requests_add(self, batch: bytes) -> int:
        """Keep packed records (proxy_engine_core.log_batch); how many there were. Their ids
        follow those of the newest before."""

    async def requests_last(self, limit: int) -> list[Request]:
        """The newest, oldest of them first."""

    async def requests_after(self, request_id: int, limit: int) -> list[Request]: ...
    async def requests_trim(self, keep: int) -> None:
        """Delete all but about the newest `keep`."""
