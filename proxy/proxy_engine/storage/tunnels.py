"""Tunnels: public names, whose they are, and what is to happen there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from proxy_engine.tunnels.options import NONE, Domain, Maintenance, Options


class Tunnel(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A public name. It belongs to the device that registered it first."""

    id: int
    name: str
    kind: str
    device_id: int
    created_at: float
    port: int | None = None  # of a TCP or UDP tunnel that has a public one
    version: int = 1  # one more with every change
    updated_at: float | None = None  # None: never by an operator
    is_enabled: bool = True
    target: str = ""  # that the operator gave it; "": the agent's own
    maintenance: Maintenance | None = None
    options: Options = NONE  # the operator's
    domains: tuple[Domain, ...] = ()  # in their order by name

    def domain_names(self, *, agents: bool) -> tuple[str, ...]:
        """Those the agent asked for, or the operator's."""
        return tuple(domain.name for domain in self.domains if domain.is_agents == agents)


class DomainTaken(Exception):
    """Another tunnel has this domain: the text."""


class PortTaken(Exception):
    """Another tunnel of the kind has this public port: the text."""


class TunnelStore(Protocol):
    async def tunnels(self) -> list[Tunnel]: ...
    async def tunnel(self, name: str) -> Tunnel | None: ...
    async def tunnels_claim(
        self, claims: Sequence[tuple[str, str, int]], now: float
    ) -> list[Tunnel]:
        """Give each (name, kind, device id) that is nobody's yet to its device.

        Returns: the tunnels of all these names; some may be another device's.
        """

    async def tunnel_add(self, tunnel: Tunnel) -> Tunnel:
        """One made ahead; its id and version are the store's. Raises NameTaken, DomainTaken,
        PortTaken."""

    async def tunnel_change(self, tunnel_id: int, *, kind: str, port: int | None) -> Tunnel | None:
        """What it is from now on. A port that another tunnel of the kind has is taken from
        that one. None: it is no more."""

    async def tunnel_update(self, tunnel: Tunnel) -> Tunnel | None:
        """Write what an operator can change (from updated_at on, and the domains) to the tunnel
        of this id, if it still has this version; what it is then, with a new version.

        None: somebody else has changed it, or it is no more. Raises DomainTaken.
        """

    async def tunnel_delete(self, name: str) -> bool:
        """False if there is none of this name."""
