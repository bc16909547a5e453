"""What httptools makes of a message, to be held against what we make of it."""

from __future__ import annotations

from typing import Any

import httptools

NONE, LENGTH, CHUNKED, CLOSE = range(4)

WORDS = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\t", b" ", b":", b",", b";", b"chunked",
    b"Content-Length: ", b"Transfer-Encoding: ", b"Host: ", b"Connection: ", b"close",
    b"keep-alive", b"Upgrade: ", b"websocket", b"h2c", b"TE: trailers", b"Expect: 100-continue",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http://", b"OPTIONS * ", b"X_Forwarded_For: ",
    b"0\r\n\r\n", b"ffffffffffffffff", b"[::1]", b"_",
]  # fmt: skip


class Seen:
    """What httptools reports, headers lower-cased."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def kept(head: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    framing = (b"content-length", b"transfer-encoding")
    return [
        (name, value)
        for name, value, is_dropped in head["fields"]
        if not is_dropped and name.lower() not in framing
    ]


def body_for(head: dict[str, Any]) -> bytes | None:
    """A body of this framing; None when it would be unreasonably large."""
    if head["framing"] == CHUNKED:
        return b"3\r\nabc\r\n0\r\n\r\n"
    if head["framing"] == LENGTH:
        return b"a" * head["content_length"] if head["content_length"] <= 4096 else None
    return b""


def check_with_httptools(head: dict[str, Any], message: bytes) -> None:
    """httptools reads the same method, path and framing, or refuses the message."""
    body = body_for(head)
    if body is None:
        return
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    is_upgrade = False
    try:
        parser.feed_data(message + body)
    except httptools.HttpParserUpgrade:
        is_upgrade = True
    except httptools.HttpParserError:
        return
    if is_upgrade:
        # What follows is a tunnel, for it as for us: there is no body to compare.
        assert "upgrade" in head["flags"]
        return
    assert parser.get_method() == head["method_name"]
    assert seen.target == head["path"]
    assert seen.is_complete
    decoded = b"abc" if head["framing"] == CHUNKED else body
    assert bytes(seen.body) == decoded
