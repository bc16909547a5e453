"""Secrets in paths and queries, before a request is written down."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from proxy_engine.text import TOKEN_PREFIX, scrub

REDACTED = "[redacted]"
# Query keys, in any case, whose values are secret wherever they appear: of logins, of APIs, and
# of the signed URLs of the large clouds.
SECRET_KEYS = frozenset(
    ("access_token", "api_key", "api-key", "apikey", "assertion", "auth", "auth_token")
    + ("authorization", "client_secret", "code_verifier", "id_token", "jwt", "key", "passwd")
    + ("password", "private_token", "pwd", "refresh_token", "secret", "session", "session_id")
    + ("sessionid", "sig", "signature", "token", "x-amz-credential", "x-amz-security-token")
    + ("x-amz-signature", "x-api-key", "x-goog-credential", "x-goog-signature")
)
# Only a path with one of these can hold a secret.
MARKS = (b"?", TOKEN_PREFIX.encode())
_PAIR = re.compile(r"([?&;])([^=&;]*)=([^&;#]*)")


class Redactor:
    """Takes the values of SECRET_KEYS and of `more` keys out of queries, and our own tokens
    out of whole paths."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        self.redacted = 0  # paths that were changed
        self.extend(more)

    def extend(self, more: Iterable[str]) -> None:
        """Other keys beside SECRET_KEYS, from now on."""
        self._keys = SECRET_KEYS | {key.strip().lower() for key in more}
        keys = "|".join(sorted(map(re.escape, self._keys)))
        # A pair whose key is secret as it stands, or may be when decoded: most queries have none.
        self._suspect = re.compile(rf"[?&;](?:(?:{keys})=|[^=&;]*[%+\s])", re.IGNORECASE)

    def __call__(self, path: str) -> str:
        """The path and query as they may be stored."""
        clean = scrub(self._query(path))
        self.redacted += clean != path
        return clean

    def _query(self, path: str) -> str:
        start = path.find("?")
        if start < 0 or not self._suspect.search(path, start):
            return path
        return path[:start] + _PAIR.sub(self._pair, path[start:])

    def _pair(self, match: re.Match[str]) -> str:
        key = match[2] if "%" not in match[2] and "+" not in match[2] else unquote_plus(match[2])
        if key.strip().lower() not in self._keys or not match[3]:
            return match.group()
        return f"{match[1]}{match[2]}={REDACTED}"
