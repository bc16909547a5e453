"""Tokens: 256 random bits, shown once, kept only as a SHA-256 digest.

A token is looked up by its digest, so no comparison ever depends on how much of a guess
is right; the digest of a 256-bit random value needs no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from proxy_engine import grants
from proxy_engine.cache.access import TokenSource
from proxy_engine.errors import UsageError
from proxy_engine.grants import Limits, Scopes
from proxy_engine.storage import Store, Token

PREFIX = "pe_"
_FORM = re.compile(r"pe_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
KINDS = ("admin", "device")
OVERLAP = 3600.0  # seconds that a secret stays good after it was replaced


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def is_name(name: str) -> bool:
    """Whether a token or device may be called this."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str = "token") -> None:
    if not is_name(name):
        raise UsageError(
            f'"{name}" is not a {what} name: letters, digits, ".", "_" and "-", at most 63'
        )


async def create(
    store: Store,
    *,
    name: str,
    kind: str = "device",
    device: str | None = None,
    now: float,
    expires_in: float | None = None,
    scopes: Scopes = grants.ANY,
    limits: Limits = grants.UNLIMITED,
) -> tuple[str, Token]:
    """A new token: its secret, for the only time, and what is kept of it.

    A device token is for one device, named like the token unless said otherwise, or, with
    scopes for devices, for all that these allow. Raises UsageError, NameTaken.
    """
    check_name(name)
    grants.check(scopes, kind)
    if kind == "admin" and (device is not None or limits != grants.UNLIMITED):
        raise UsageError("an admin token has no device and no limits")
    if device is not None and scopes.devices is not None:
        raise UsageError("a token is for one device or has scopes for devices, not both")
    if kind == "device" and scopes.devices is None:
        device = name if device is None else device
        check_name(device, "device")
    secret = new_secret()
    token = await store.token_add(
        name=name,
        kind=kind,
        digest=digest(secret),
        device=device,
        now=now,
        expires_at=None if expires_in is None else now + expires_in,
        scopes=scopes,
        limits=limits,
    )
    return secret, token


async def change(store: Store, name: str, *, limits: Mapping[str, int], now: float) -> Token | None:
    """Give a live device token other limits, those by these names. None if there is no live
    token of this name. Raises UsageError."""
    token = next((token for token in await store.tokens() if token.name == name), None)
    if token is None:
        return None
    if token.kind == "admin":
        raise UsageError("an admin token has no limits")
    changed = msgspec.structs.replace(token.limits, **limits)
    return await store.token_change(name, now, limits=changed)


async def rotate(
    store: Store, name: str, *, now: float, overlap: float = OVERLAP
) -> tuple[str, Token] | None:
    """A new secret for a live token, and the token. None if there is none of this name.

    Args:
        overlap: seconds for which the secret it had is still good.
    """
    secret = new_secret()
    token = await store.token_rotate(name, digest(secret), now, now + overlap)
    return None if token is None else (secret, token)


async def find(source: TokenSource, secret: str) -> Token | None:
    """The token with this secret, live or not."""
    return (await find_all(source, [secret])).get(secret)


async def find_all(source: TokenSource, secrets: Iterable[str]) -> dict[str, Token]:
    """The tokens with these secrets, live or not, by secret."""
    wanted = {digest(secret): secret for secret in secrets if _FORM.fullmatch(secret)}
    found = await source.tokens_by_digest(list(wanted)) if wanted else {}
    return {
        wanted[key]: token for key, row in found.items() if (token := as_used(row, key)) is not None
    }


def as_used(token: Token, key: bytes) -> Token | None:
    """The token as the secret with this digest opens it: with the end of that secret, if
    the token has a newer one. None if the secret is not, or no more, one of its two."""
    if hmac.compare_digest(key, token.digest):
        return token
    if token.old_digest is None or not hmac.compare_digest(key, token.old_digest):
        return None
    ends = [end for end in (token.old_expires_at, token.expires_at) if end is not None]
    return msgspec.structs.replace(token, digest=key, expires_at=min(ends))


def refusal(token: Token | None, now: float) -> str | None:
    """Why this token opens nothing: unknown_token, revoked_token, expired_token; or None."""
    if token is None:
        return "unknown_token"
    if token.revoked_at is not None:
        return "revoked_token"
    if token.expires_at is not None and token.expires_at <= now:
        return "expired_token"
    return None


def bearer(value: bytes | str | None) -> str | None:
    """The credential of an `Authorization: Bearer ...` field."""
    if value is None:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme, _, credential = text.strip().partition(" ")
    return credential.strip() if scheme.lower() == "bearer" and credential.strip() else None


class FirstRun(NamedTuple):
    """The tokens made on an empty data dir; to be shown once."""

    admin_token: str
    device_token: str


async def create_first(store: Store) -> FirstRun | None:
    """One of each kind for a store that has none; None if it has some."""
    if await store.tokens():
        return None
    now = time.time()
    admin, _ = await create(store, name="admin", kind="admin", now=now)
    device, _ = await create(store, name="default", now=now)
    return FirstRun(admin, device)
