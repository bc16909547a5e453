"""Tokens and devices: who may connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from proxy_engine.grants import ANY, UNLIMITED, Limits, Scopes


class Token(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    certificate_names: tuple[str, ...] = ()  # the device's


class Device(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    id: int
    name: str
    created_at: float
    is_blocked: bool
    last_seen_at: float | None
    owner_token_id: int | None = None  # the token that it registered itself with
    first_seen_at: float | None = None
    kicked_at: float | None = None  # links from before then are to end
    labels: dict[str, str] = {}
    address: str = ""  # where it last came from, without port
    agent: str = ""  # what it last said of itself
    platform: str = ""
    links: int = 0  # made so far, like the following
    requests: int = 0
    bytes_in: int = 0  # of visitors' requests
    bytes_out: int = 0  # ... and responses
    certificate_names: tuple[str, ...] = ()  # its certificate has one of them; (): its own name


class Sighting(msgspec.Struct, kw_only=True, gc=False):
    """What became known of a device since the last one. Texts that are empty change nothing,
    numbers are added to what there was."""

    at: float | None = None  # when it was there
    address: str = ""
    agent: str = ""
    platform: str = ""
    links: int = 0
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class NameTaken(Exception):
    """A unique name is in use already.

    Args:
        what: is called so: "token".
    """

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f'there is a {what} named "{name}" already')


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

    async def token_change(self, name: str, now: float, *, limits: Limits) -> Token | None:
        """Give a live token other limits. None if there is no live token of this name."""

    async def token_revoke(self, name: str, now: float) -> bool:
        """False if there is no live token of this name."""

    async def seen(self, tokens: Mapping[int, float], devices: Mapping[int, Sighting]) -> None:
        """When tokens were used and what is new of devices, by id. Unknown ids are no error."""

    async def devices(self) -> list[Device]: ...
    async def devices_claim(
        self, claims: Sequence[tuple[str, int]], now: float
    ) -> dict[str, Device]:
        """The devices of these (name, token id), by name; who is new is registered as its."""

    async def device_add(self, name: str, labels: Mapping[str, str], now: float) -> Device:
        """Raises NameTaken."""

    async def device_change(
        self,
        name: str,
        *,
        new_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        is_blocked: bool | None = None,
        kicked_at: float | None = None,
        certificate_names: Sequence[str] | None = None,
    ) -> Device | None:
        """Change what is given; all of it or nothing. None: there is none of this name.
        Raises NameTaken."""

    async def device_delete(self, name: str) -> bool:
        """Also its tunnels, its history and the tokens that are for it alone."""
