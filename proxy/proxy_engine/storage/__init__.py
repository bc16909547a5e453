"""What the control plane keeps, behind one interface.

Everything is asynchronous, because a store may be on the network; a store on disk runs
its calls in threads of its own. No call blocks the event loop, and none waits for ever: what
a store can not do now raises StorageError, and the next call may succeed again.

One file for each concern, here as the interface and in each backend as its implementation:
access (tokens, devices), history (of devices, of admins), tunnels, requests (the log), metrics,
shared (what the servers of one store agree on).
tests/storage holds every backend to the same contract.
"""

from __future__ import annotations

from typing import Protocol

from proxy_engine.storage.access import AccessStore, Device, NameTaken, Sighting, Token
from proxy_engine.storage.history import AuditRecord, DeviceEvent, HistoryStore, Presence
from proxy_engine.storage.metrics import Metric, MetricStore
from proxy_engine.storage.requests import (
    Request,
    RequestPage,
    RequestQuery,
    RequestStore,
    RequestSummary,
    Retention,
)
from proxy_engine.storage.shared import SharedStore
from proxy_engine.storage.tunnels import DomainTaken, PortTaken, Tunnel, TunnelStore

__all__ = [
    "AuditRecord",
    "Device",
    "DeviceEvent",
    "DomainTaken",
    "Metric",
    "NameTaken",
    "PortTaken",
    "Presence",
    "Request",
    "RequestPage",
    "RequestQuery",
    "RequestSummary",
    "Retention",
    "Sighting",
    "Store",
    "Token",
    "Tunnel",
]


class Store(
    AccessStore, HistoryStore, TunnelStore, RequestStore, MetricStore, SharedStore, Protocol
):
    async def close(self) -> None:
        """Idempotent."""

    async def ping(self) -> None:
        """Returns if the store can be read and written now; raises StorageError if not."""

    async def changed_elsewhere(self) -> bool:
        """Whether another process wrote since the last call (true at the first)."""
