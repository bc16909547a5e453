"""What happened: devices that came and went, and what admins did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

DEVICE_EVENTS_MAX = 1000  # kept of each device
AUDIT_MAX = 100_000  # records kept

Presence = Literal["online", "offline"]


class DeviceEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The first link of a device came up, or its last one went."""

    device_id: int
    at: float
    kind: Presence
    address: str
    reason: str = ""  # why it went
    id: int = 0  # given by the store


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One write by an admin. It is there before the write is tried."""

    at: float
    actor: str  # the admin token, or "local" for who has the data dir
    address: str  # where from; "" for local
    action: str  # such as block_device
    subject: str  # the name of what was written
    detail: str = ""  # for people; never a secret
    outcome: str = ""  # "ok", or why not; "": the server ended before it was known
    id: int = 0  # given by the store


class HistoryStore(Protocol):
    async def device_events_add(self, events: Sequence[DeviceEvent]) -> None:
        """In this order; the newest DEVICE_EVENTS_MAX of each device are kept."""

    async def device_events(
        self, device_id: int, limit: int, before: int | None = None
    ) -> list[DeviceEvent]:
        """Newest first.

        Args:
            before: only those older than the one of this id.
        """

    async def audit_begin(self, record: AuditRecord) -> int:
        """Keep a record of what is about to be tried; returns its id. About the newest
        AUDIT_MAX are kept."""

    async def audit_end(self, record_id: int, outcome: str) -> None: ...
    async def audit(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        """Newest first.

        Args:
            before: only those older than the one of this id.
        """
