"""Names and values in Redis that only the nodes of one store can make.

All is keyed with 32 random bytes that the store keeps (Store.shared_key()) and Redis never sees.
Who reads Redis learns no digest and no device's name from a key; who writes to it can not make a
value that is taken, nor move one to another key, nor bring back one from before a write:

    name    "proxy-engine:NAMESPACE:KIND:" hex(HMAC(key, what it is about))
    value   generation (16) | HMAC-SHA256 of name, format, generation and data (32) | data

The namespace follows from the key, so several installations may share one Redis.
"""

from __future__ import annotations

import hashlib
import hmac

PREFIX = "proxy-engine"
GENERATION_SIZE = 16
_TAG_SIZE = 32
_HEAD = GENERATION_SIZE + _TAG_SIZE


class Forged(ValueError):
    """Not a value that a node of this store has made for this name."""


class Sealer:
    """
    Args:
        format: what the data looks like; versions with another one take no value of each other.
    """

    def __init__(self, key: bytes, format: bytes) -> None:
        self._naming = _mac(key, b"names")
        self._sealing = _mac(key, b"values" + hashlib.sha256(format).digest())
        self._prefix = f"{PREFIX}:{_mac(key, b'namespace')[:8].hex()}"

    def name(self, kind: str, about: bytes) -> str:
        text = _mac(self._naming, kind.encode() + b"\0" + about)[:16].hex()
        return f"{self._prefix}:{kind}:{text}"

    def channel(self, kind: str) -> str:
        return f"{self._prefix}:{kind}"

    def seal(self, name: str, generation: bytes, data: bytes) -> bytes:
        return generation + self._tag(name, generation, data) + data

    def open(self, name: str, generation: bytes, value: bytes) -> bytes | None:
        """The data; None if it is of another generation. Raises Forged."""
        of, tag, data = value[:GENERATION_SIZE], value[GENERATION_SIZE:_HEAD], value[_HEAD:]
        if len(value) < _HEAD or not hmac.compare_digest(tag, self._tag(name, of, data)):
            raise Forged(name)
        return data if of == generation else None

    def _tag(self, name: str, generation: bytes, data: bytes) -> bytes:
        # Names have no NUL and generations one length: nothing can be read in two ways.
        return _mac(self._sealing, name.encode() + b"\0" + generation + data)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
