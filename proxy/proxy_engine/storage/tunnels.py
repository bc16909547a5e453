"""Tunnels: public names and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """A public name. It belongs to the device that registered it first."""

    id: int
    name: str
    kind: str
    device_id: int
    created_at: float
    port: int | None = None  # of a TCP or UDP tunnel that has a public one


class TunnelStore(Protocol):
    async def tunnels(self) -> list[Tunnel]: ...
    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        """Give each (name, kind, device id) that is nobody's yet to its device.

        Returns: the tunnels of all these names; some may be another device's.
        """

    async def tunnel_change(self, tunnel_id: int, *, kind: str, port: int | None) -> None:
        """What it is from now on. A port that another tunnel of the kind has is
        taken from that one."""
