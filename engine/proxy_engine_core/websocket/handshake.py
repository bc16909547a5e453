"""The opening handshake, RFC 6455 section 4, of both sides.

Heads are written here but not read: the method (GET), the version (HTTP/1.1) and the
syntax are the HTTP parser's business; fields come as it gives them, lower-case names and
raw values.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from proxy_engine_core.websocket.extensions import (
    OFFER,
    Deflate,
    accept_deflate,
    check_deflate,
    parse_extensions,
)

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
KEY_SIZE = 16  # bytes, before base64
KEY_TEXT_SIZE = 24  # characters: base64 of 16 bytes, two of them padding
VERSION = "13"


Fields = Iterable[tuple[str, bytes]]  # as parsed: (lower-case name, value)
Headers = Iterable[tuple[str, str]]  # to be written

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_PHRASES = {400: "Bad Request", 426: "Upgrade Required"}


class HandshakeError(Exception):
    """A handshake that can not become a WebSocket.

    Args:
        status: For a server, the status to answer with: 400, or 426, which needs `Upgrade:
            websocket` and `Sec-WebSocket-Version: 13` (`refusal()` writes all of it). For
            a client, the status it got.
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


class Agreement(NamedTuple):
    """What a handshake came to."""

    response: bytes  # of a server: the 101 to send; of a client: empty
    subprotocol: str | None
    deflate: Deflate | None  # for Connection(deflate=...)


def accept_request(
    fields: Fields,
    *,
    subprotocols: Sequence[str] = (),
    deflate: bool = False,
    headers: Headers = (),
) -> Agreement:
    """Accept a client's GET.

    Args:
        fields: Of the request.
        subprotocols: Ours, the best first: the first that the client named too is chosen.
            Without a common one there is none, and the client may go on or not.
        deflate: Agree to permessage-deflate if it is offered in a way we can do.
        headers: More fields for the answer.
    Raises: HandshakeError; answer it with refusal().
    """
    values = _collect(fields)
    key = _check_upgrade(values)
    answer = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
    ]
    offered = _members(values.get("sec-websocket-protocol", []))
    subprotocol = next((name for name in subprotocols if name in offered), None)
    if subprotocol is not None:
        answer.append(("Sec-WebSocket-Protocol", subprotocol))
    agreed = None
    try:
        offers = parse_extensions(values.get("sec-websocket-extensions", []))
    except ValueError as error:
        raise HandshakeError(400, f"Sec-WebSocket-Extensions: {error}.") from None
    if deflate and (accepted := accept_deflate(offers)):
        agreed, extension = accepted
        answer.append(("Sec-WebSocket-Extensions", extension))
    response = _head("HTTP/1.1 101 Switching Protocols", [*answer, *headers])
    return Agreement(response, subprotocol, agreed)


def refusal(error: HandshakeError) -> bytes:
    """A server's whole answer to a request that accept_request() refused; then close."""
    body = f"{error.reason}\n".encode()
    answer = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    if error.status == 426:
        answer += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)]
    return _head(f"HTTP/1.1 {error.status} {_PHRASES[error.status]}", answer) + body


def request(
    host: str,
    target: str = "/",
    *,
    key: str,
    subprotocols: Sequence[str] = (),
    deflate: bool = False,
    headers: Headers = (),
) -> bytes:
    """A client's request.

    Args:
        host: The authority, with the port unless it is the scheme's own.
        target: Path and query.
        key: From new_key(); check_response() wants it again.
        subprotocols: The best first.
        deflate: Offer permessage-deflate.
        headers: More fields.
    Raises: ValueError for what can not be in a head.
    """
    if not _VISIBLE.fullmatch(target):
        raise ValueError(f"not a request target: {target!r}")
    fields = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
    ]
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if deflate:
        fields.append(("Sec-WebSocket-Extensions", OFFER))
    return _head(f"GET {target} HTTP/1.1", [*fields, *headers])


def check_response(
    status: int,
    fields: Fields,
    *,
    key: str,
    subprotocols: Sequence[str] = (),
    deflate: bool = False,
) -> Agreement:
    """What a server's answer agrees to; key, subprotocols and deflate as in the request.

    Raises: HandshakeError: it is not a 101, or not one that answers the request.
    """
    values = _collect(fields)
    if status != 101:
        raise HandshakeError(status, f"The server answered {status}, not 101.")
    if _tokens(values.get("upgrade", [])) != {"websocket"}:
        raise HandshakeError(status, "The Upgrade field of the answer is not websocket.")
    if "upgrade" not in _tokens(values.get("connection", [])):
        raise HandshakeError(status, "The Connection field of the answer is not Upgrade.")
    accepted = values.get("sec-websocket-accept", [])
    if len(accepted) != 1 or not verify_accept(key, accepted[0]):
        raise HandshakeError(status, "Sec-WebSocket-Accept does not answer our key.")
    chosen = values.get("sec-websocket-protocol", [])
    if len(chosen) > 1 or (chosen and chosen[0] not in subprotocols):
        raise HandshakeError(status, "The server chose a subprotocol we did not offer.")
    try:
        answers = parse_extensions(values.get("sec-websocket-extensions", []))
        if answers and not deflate:
            raise ValueError("none was offered")
        agreed = check_deflate(answers)
    except ValueError as error:
        raise HandshakeError(status, f"Sec-WebSocket-Extensions: {error}.") from None
    return Agreement(b"", chosen[0] if chosen else None, agreed)


def check_upgrade(fields: Fields) -> str:
    """The Sec-WebSocket-Key of a valid upgrade request.

    Args:
        fields: The request's fields: (lower-case name, value).
    Raises: HandshakeError with status 426 if this is no WebSocket upgrade or of another
        version, 400 if it is a broken one.
    """
    return _check_upgrade(_collect(fields))


def _check_upgrade(values: dict[str, list[str]]) -> str:
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


def _collect(fields: Fields) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value.decode("latin-1").strip(" \t"))
    return values


def _head(start: str, fields: Headers) -> bytes:
    lines = [start]
    for name, value in fields:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"not a header field: {name!r}: {value!r}")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _members(values: list[str]) -> list[str]:
    return [member.strip(" \t") for value in values for member in value.split(",")]


def _tokens(values: list[str]) -> set[str]:
    return {member.lower() for member in _members(values)}


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
