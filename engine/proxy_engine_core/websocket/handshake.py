"""The opening handshake, RFC 6455 section 4: the fields, not the bytes around them.

The method (GET), the version (HTTP/1.1) and the syntax of the head are the HTTP
parser's business; fields come as it gives them, lower-case names and raw values.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
KEY_SIZE = 16  # bytes, before base64
KEY_TEXT_SIZE = 24  # characters: base64 of 16 bytes, two of them padding
VERSION = "13"


class HandshakeError(Exception):
    """An upgrade request that can not become a WebSocket.

    Args:
        status: 400, or 426: the answer then needs `Upgrade: websocket` and
            `Sec-WebSocket-Version: 13`.
        reason: One sentence for the answer and the log.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers this Sec-WebSocket-Key."""
    digest = hashlib.sha1((key + GUID).encode("latin-1"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def new_key() -> str:
    """A fresh Sec-WebSocket-Key for a client's request."""
    return base64.b64encode(secrets.token_bytes(KEY_SIZE)).decode("ascii")


def verify_accept(key: str, accept: str) -> bool:
    """Whether `accept`, from a server's 101, answers `key`."""
    return accept.strip(" \t") == accept_key(key)


def check_upgrade(fields: Iterable[tuple[str, bytes]]) -> str:
    """The Sec-WebSocket-Key of a valid upgrade request.

    Args:
        fields: The request's fields: (lower-case name, value).
    Raises: HandshakeError with status 426 if this is no WebSocket upgrade or of another
        version, 400 if it is a broken one.
    """
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value.decode("latin-1").strip(" \t"))

    if "websocket" not in _tokens(values.get("upgrade", [])):
        raise HandshakeError(426, "This address only speaks WebSocket.")
    if "upgrade" not in _tokens(values.get("connection", [])):
        raise HandshakeError(426, "The Connection field does not ask for an upgrade.")

    if _single(values, "sec-websocket-version") != VERSION:
        raise HandshakeError(426, "Only WebSocket version 13 is supported.")
    key = _single(values, "sec-websocket-key")
    if not _is_key(key):
        raise HandshakeError(400, "Sec-WebSocket-Key is not 16 bytes in base64.")
    return key


def _tokens(values: list[str]) -> set[str]:
    return {token.strip(" \t").lower() for value in values for token in value.split(",")}


def _single(values: dict[str, list[str]], name: str) -> str:
    found = values.get(name, [])
    if len(found) != 1:
        title = name.title().replace("Websocket", "WebSocket")
        raise HandshakeError(400, f"{title} must be there once, not {len(found)} times.")
    return found[0]


def _is_key(text: str) -> bool:
    try:
        return len(text) == KEY_TEXT_SIZE and len(base64.b64decode(text, validate=True)) == KEY_SIZE
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return False
