"""Tokens: 256 random bits, shown once, kept only as a SHA-256 digest.

A token is looked up by its digest, so no comparison ever depends on how much of a guess
is right; the digest of a 256-bit random value needs no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from proxy_engine.errors import UsageError
from proxy_engine.storage import Store, Token

PREFIX = "pe_"
_FORM = re.compile(r"pe_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
KINDS = ("admin", "device")


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def check_name(name: str, what: str = "token") -> None:
    if not _NAME.fullmatch(name):
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
) -> tuple[str, Token]:
    """A new token: its secret, for the only time, and what is kept of it."""
    check_name(name)
    if kind == "admin" and device is not None:
        raise UsageError("an admin token has no device")
    if kind == "device":
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
    )
    return secret, token


async def find(store: Store, secret: str) -> Token | None:
    """The token with this secret, live or not."""
    return (await find_all(store, [secret])).get(secret)


async def find_all(store: Store, secrets: Iterable[str]) -> dict[str, Token]:
    """The tokens with these secrets, live or not, by secret."""
    wanted = {digest(secret): secret for secret in secrets if _FORM.fullmatch(secret)}
    found = await store.tokens_by_digest(list(wanted)) if wanted else {}
    return {
        wanted[key]: token for key, token in found.items() if hmac.compare_digest(key, token.digest)
    }


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
