"""Connections to private tunnels end with the secret that they were made with.

The engine knows them by a quota (docs/adr/0015) that all connections made with one secret share.
Here is which secret that is: the old one of a rotated token ends before the new one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from proxy_engine import logs, tokens

if TYPE_CHECKING:
    from proxy_engine.storage import Token
    from proxy_engine_core.core import Engine

FIRST_KEY = 1 << 62  # of quotas: those below are tokens' ids, for the limits of links

_log = logs.get("links")


class _Secret(NamedTuple):
    token_id: int
    digest: bytes


class Joined:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keys: dict[_Secret, int] = {}
        self._ends: dict[_Secret, float | None] = {}
        self._next_key = FIRST_KEY

    def key(self, token: Token) -> int:
        """The quota of connections that this secret of a good token makes."""
        secret = _Secret(token.id, token.digest)
        if secret not in self._keys:
            self._keys[secret] = self._next_key
            self._next_key += 1
        self._ends[secret] = token.expires_at
        return self._keys[secret]

    def recheck(self, known: Mapping[int, Token], now: float) -> None:
        """What is known of tokens has changed."""
        for secret in list(self._keys):
            token = known.get(secret.token_id)
            token = None if token is None else tokens.as_used(token, secret.digest)
            reason = tokens.refusal(token, now)
            if reason is None and token is not None and token.is_blocked:
                reason = "blocked_device"
            if reason is not None:
                self._end(secret, reason)
            elif token is not None:
                self._ends[secret] = token.expires_at

    def tick(self, now: float) -> None:
        for secret, end in list(self._ends.items()):
            if end is not None and end <= now:
                self._end(secret, "expired_token")

    def _end(self, secret: _Secret, reason: str) -> None:
        _log.info("joined tunnels left", token=secret.token_id, reason=reason)
        self._engine.joined_close(self._keys.pop(secret))
        del self._ends[secret]
