"""The Upgrade request that turns an HTTP connection into a link, and its answers.

Both roles, as pure functions: bytes in, bytes out. The wire is described in
docs/protocol.md, section "Handshake".
"""

from __future__ import annotations

import email.utils
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from proxy_engine.values import POOL_MAX
from proxy_engine_core.websocket.handshake import (
    HandshakeError,
    accept_key,
    check_upgrade,
    verify_accept,
)

LINK_PATH = "/_proxy/link"
DATA_PATH = "/_proxy/data"
PROTOCOL_VERSION = 1
STOCK_WINDOW = 256 * 1024  # bytes; what yamux starts a stream with
# ... and what our roles agree on. No more, because it could never be taken back: a stream
# gets the rest of what it starts with in its SYN or ACK, while there is memory for it.
WINDOW = STOCK_WINDOW
STREAMS_MAX = 65000  # live streams towards our agent
STOCK_STREAMS_MAX = 500  # ... towards an unknown peer: a popular library ends at 513
SUBPROTOCOL = "proxy-engine.yamux"
RAW_UPGRADE = "proxy-engine-yamux"
DATA_UPGRADE = "proxy-engine-data"

Carrier = Literal["raw", "websocket"]
Fields = Iterable[tuple[str, bytes]]

_PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    426: "Upgrade Required",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


class Refusal(Exception):
    """An HTTP answer other than 101: status, a code for machines, a sentence for people."""

    def __init__(
        self, status: int, code: str, message: str, fields: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.fields = dict(fields or {})

    def response(self) -> bytes:
        body = msgspec.json.encode({"error": self.code, "message": self.message}) + b"\n"
        fields = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **self.fields,
        }
        return head(f"HTTP/1.1 {self.status} {_PHRASES[self.status]}", fields) + body


class Offer(NamedTuple):
    """What a device asked for."""

    carrier: Carrier
    key: str  # Sec-WebSocket-Key; "" for raw
    version: int  # 0: no Proxy-Engine-Version, a stock yamux peer
    window: int
    instance: str
    number: int  # which of the run's links this is, from 1
    is_numbered: bool = True  # it said so: its run may have several
    direct: int = 0  # idle direct connections it keeps at most

    @property
    def is_agent(self) -> bool:
        return self.version > 0


def read_request(method: str, target: str, fields: list[tuple[str, bytes]]) -> Offer:
    """What an authorised request for a link offers. Raises Refusal."""
    if target.partition("?")[0] != LINK_PATH:
        raise Refusal(404, "not_found", f"links are made at {LINK_PATH}")
    if method != "GET":
        raise Refusal(405, "method_not_allowed", "use GET", {"Allow": "GET"})
    if RAW_UPGRADE in members(fields, "upgrade"):
        if "upgrade" not in members(fields, "connection"):
            raise Refusal(400, "bad_upgrade", "the Connection field must name upgrade")
        carrier: Carrier = "raw"
        key = ""
    elif "websocket" in members(fields, "upgrade"):
        carrier = "websocket"
        if SUBPROTOCOL not in members(fields, "sec-websocket-protocol"):
            raise Refusal(400, "bad_subprotocol", f"Sec-WebSocket-Protocol must name {SUBPROTOCOL}")
        try:
            key = check_upgrade(fields)
        except HandshakeError as error:
            status = error.status if error.status in _PHRASES else 400
            extra = {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"}
            raise Refusal(
                status, "bad_upgrade", str(error.reason), extra if status == 426 else None
            ) from None
    else:
        raise Refusal(
            426,
            "upgrade_required",
            f"Upgrade must be websocket or {RAW_UPGRADE}",
            {"Upgrade": f"websocket, {RAW_UPGRADE}"},
        )
    version = _number(fields, "proxy-engine-version")
    window = _number(fields, "proxy-engine-window") or STOCK_WINDOW
    if version:
        # No less than yamux's own start: its senders may use that much unasked.
        window = max(STOCK_WINDOW, min(window, WINDOW))
    else:
        window = STOCK_WINDOW
    instance = _value(fields, "proxy-engine-instance") or ""
    number = _number(fields, "proxy-engine-link") if version else 0
    version = min(version, PROTOCOL_VERSION)
    direct = min(_number(fields, "proxy-engine-direct"), POOL_MAX) if version else 0
    return Offer(carrier, key, version, window, instance[:64], number or 1, number > 0, direct)


def device_name(fields: Fields) -> str:
    """What the device calls itself, which it has to where a token is for several; or ""."""
    return (_value(fields, "proxy-engine-device") or "")[:64]


def accept_response(offer: Offer, links: int, direct: int = 0) -> bytes:
    """The 101 answer to an offer.

    Args:
        links: how many of them one run may have.
        direct: idle direct connections the link may have at most.
    """
    fields = {"Connection": "Upgrade"}
    if offer.carrier == "websocket":
        fields["Upgrade"] = "websocket"
        fields["Sec-WebSocket-Accept"] = accept_key(offer.key)
        fields["Sec-WebSocket-Protocol"] = SUBPROTOCOL
    else:
        fields["Upgrade"] = RAW_UPGRADE
    if offer.is_agent:
        fields["Proxy-Engine-Version"] = str(offer.version)
        fields["Proxy-Engine-Window"] = str(offer.window)
        fields["Proxy-Engine-Links"] = str(links)
        if direct:
            fields["Proxy-Engine-Direct"] = str(direct)
    return head("HTTP/1.1 101 Switching Protocols", fields)


def request(
    *,
    authority: str,
    token: str,
    instance: str,
    number: int,
    carrier: Carrier,
    key: str,
    device: str = "",
    direct: int = 0,
) -> bytes:
    """The agent's request.

    Args:
        key: from websocket.handshake.new_key(); "" for raw.
        direct: idle direct connections it will keep at most.
    """
    fields = {
        "Host": authority,
        "Authorization": f"Bearer {token}",
        "Connection": "Upgrade",
        "Proxy-Engine-Version": str(PROTOCOL_VERSION),
        "Proxy-Engine-Window": str(WINDOW),
        "Proxy-Engine-Instance": instance,
        "Proxy-Engine-Link": str(number),
    }
    if device:
        fields["Proxy-Engine-Device"] = device
    if direct:
        fields["Proxy-Engine-Direct"] = str(direct)
    if carrier == "websocket":
        fields["Upgrade"] = "websocket"
        fields["Sec-WebSocket-Version"] = "13"
        fields["Sec-WebSocket-Key"] = key
        fields["Sec-WebSocket-Protocol"] = SUBPROTOCOL
    else:
        fields["Upgrade"] = RAW_UPGRADE
    return head(f"GET {LINK_PATH} HTTP/1.1", fields)


def data_request(authority: str) -> bytes:
    """What a request for a direct connection begins with: all but its ticket."""
    fields = {"Host": authority, "Connection": "Upgrade", "Upgrade": DATA_UPGRADE}
    return head(f"GET {DATA_PATH} HTTP/1.1", fields)[:-2] + b"Proxy-Engine-Ticket: "


def check_response(head: bytes, *, carrier: Carrier, key: str) -> int:
    """Whether a 101 is the answer to our request: how many links this run may have.

    Raises: ValueError saying what is wrong.
    """
    fields = response_fields(head)
    if carrier == "websocket":
        accept = _value(fields, "sec-websocket-accept")
        if accept is None or not verify_accept(key, accept):
            raise ValueError("the Sec-WebSocket-Accept field is wrong")
        if _value(fields, "sec-websocket-protocol") != SUBPROTOCOL:
            raise ValueError(f"it did not agree to the subprotocol {SUBPROTOCOL}")
    version = _number(fields, "proxy-engine-version")
    if version == 0:
        raise ValueError("it is not a proxy-engine server (no Proxy-Engine-Version field)")
    if version != PROTOCOL_VERSION:
        raise ValueError(f"it speaks version {version} of the protocol, not {PROTOCOL_VERSION}")
    return _number(fields, "proxy-engine-links") or 1  # a server that says nothing: one


def response_fields(head: bytes) -> list[tuple[str, bytes]]:
    """Fields of a response head that the engine's strict parser has accepted already."""
    fields = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name.decode("latin-1").lower(), value.strip(b" \t")))
    return fields


def retry_after(head: bytes, now: float) -> float | None:
    """Seconds from a Retry-After field: a number of them, or a date. None if there is none."""
    value = _value(response_fields(head), "retry-after")
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def refusal_text(body: bytes) -> tuple[str, str]:
    """(code, message) of a refusal's JSON body; empty where it has none."""
    try:
        data: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    code, message = data.get("error"), data.get("message")
    return (
        code[:64] if isinstance(code, str) else "",
        message[:300] if isinstance(message, str) else "",
    )


def head(start: str, fields: Mapping[str, str]) -> bytes:
    """An HTTP/1.1 head: its start line and fields."""
    lines = [start, *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _value(fields: Fields, name: str) -> str | None:
    for key, value in fields:
        if key == name:
            return value.decode("latin-1")
    return None


def members(fields: Fields, name: str) -> set[str]:
    """Lower-case members of every field of this name, each a comma-separated list."""
    return {
        member.strip().lower()
        for key, value in fields
        if key == name
        for member in value.decode("latin-1").split(",")
    }


def _number(fields: Fields, name: str) -> int:
    """A field's small decimal value; 0 if it is missing or anything else."""
    value = _value(fields, name)
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 10:
        return 0
    return int(value)
