"""Tokens and devices: who may connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from proxy_engine.grants import ANY, UNLIMITED, Limits, Scopes


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A secret's digest and what it allows. The secret itself is never kept."""

    id: int
    name: str
    kind: str  # "admin" or "device"
    digest: bytes  # SHA-256 of the text form
    device_id: int | None  # None: of an admin token, and of one for all devices in its scopes
    device: str | None  # the device's name
    is_blocked: bool  # the device is
    created_at: float  # seconds since the epoch, like all times here
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    old_digest: bytes | None = None  # of the secret before this one ...
    old_expires_at: float | None = None  # ... which is good until then
    scopes: Scopes = ANY
    limits: Limits = UNLIMITED


class Device(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    created_at: float
    is_blocked: bool
    last_seen_at: float | None
    owner_token_id: int | None = None  # the token that it registered itself with


class NameTaken(Exception):
    """A unique name is in use already."""


class AccessStore(Protocol):
    async def token_add(
        self,
        *,
        name: str,
        kind: str,
        digest: bytes,
        device: str | None,
        now: float,
        expires_at: float | None,
        scopes: Scopes = ANY,
        limits: Limits = UNLIMITED,
    ) -> Token:
        """Also creates the device if it is new. Raises NameTaken."""

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        """Those that there are; many at once, because devices come back all at once.

        A token is found by its old digest too, whether that is still good or not.
        """

    async def tokens(self) -> list[Token]: ...
    async def token_rotate(
        self, name: str, digest: bytes, now: float, old_expires_at: float
    ) -> Token | None:
        """Give a live token a new digest; the one it had stays good for a while, the one
        before it no longer. None if there is no live token of this name."""

    async def token_revoke(self, name: str, now: float) -> bool:
        """False if there is no live token of this name."""

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, float]) -> None:
        """When tokens were used and devices were there, by id."""

    async def devices(self) -> list[Device]: ...
    async def devices_claim(
        self, claims: Sequence[tuple[str, int]], now: float
    ) -> dict[str, Device]:
        """The devices of these (name, token id), by name; who is new is registered as its."""
