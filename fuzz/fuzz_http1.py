"""Fuzz target: heads, the chunked coding and rewriting.

The first byte chooses what the rest is and seeds how it is split. Permitted outcomes:

- a request or response head is accepted, or refused with one of the HeadError reasons;
  the precheck never refuses the start of a head that is accepted;
- an accepted head, rewritten, is accepted again with the same method, path, authority,
  framing and kept fields, and rewriting that changes nothing more;
- httptools, given the rewritten head, reads the same method, path and framing, or
  refuses it: it never sees another framing than we do;
- a chunked body gives data and then "end", "more", "bad_chunk" or "bad_trailer", the same
  for every split; what ends is data that httptools reads too.

Anything else, an assertion, another exception or a crash, is a bug.
"""

from __future__ import annotations

import random
from typing import Any

import httptools

from proxy_engine_core._testing import http1

REASONS = {http1.error_reason(code) for code in range(-19, 0)}
NONE, LENGTH, CHUNKED, CLOSE = range(4)

SEEDS = [
    b"\x00GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x04POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\nX-A: b\r\n\r\n",
    b"\x08PUT http://a/ HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"\x00GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x00GET / HTTP/1.0\r\nConnection: keep-alive, x-a\r\nX-A: b\r\n\r\n",
    b"\x01HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
    b"\x01HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
    b"\x01HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x025\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
    b'\x035;a=b;c="d\\""\r\nhello\r\n0\r\n\r\n',
]

DICTIONARY = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b":",
    b",",
    b";",
    b"chunked",
    b"Content-Length: ",
    b"Transfer-Encoding: ",
    b"Host: ",
    b"Connection: ",
    b"close",
    b"keep-alive",
    b"Upgrade: ",
    b"websocket",
    b"h2c",
    b"TE: trailers",
    b"Expect: 100-continue",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"http://",
    b"OPTIONS * ",
    b"X_Forwarded_For: ",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"[::1]",
    b"_",
]


class Seen:
    """What httptools makes of a message, headers lower-cased."""

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


def split(data: bytes, seed: int) -> list[bytes]:
    chooser = random.Random(seed)
    pieces = []
    while data:
        size = chooser.choice((1, 1, 2, 3, 7, 16, 64, 4096))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


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


def check_request(data: bytes, seed: int) -> None:
    size, _ = http1.find_end([data])
    assert size == http1.find_end(split(data, seed))[0]
    source = data[:size] if size else data
    head = http1.parse_request(source)
    if isinstance(head, str):
        assert head in REASONS
        return
    cut = seed * 37 % len(source)
    assert http1.precheck(source[:cut]) == ""
    written = http1.rewrite_request(source)
    again = http1.parse_request(written)
    assert isinstance(again, dict), (again, written)
    for key in ("method", "method_name", "path", "framing", "content_length", "upgrade"):
        assert again[key] == head[key], key
    assert again["authority"] == (head["authority"] or b"localhost")
    assert kept(again) == kept(head)
    if head["authority"]:  # else a host was made up, and is forwarded the next time
        assert http1.rewrite_request(written) == written
    check_with_httptools(head, written)


def check_response(data: bytes) -> None:
    size, _ = http1.find_end([data])
    source = data[:size] if size else data
    head = http1.parse_response(source)
    if isinstance(head, str):
        assert head in REASONS
        return
    if head["status"] == 101 and "upgrade" not in head["flags"]:
        return  # not forwarded: nobody switched
    written = http1.rewrite_response(source)
    again = http1.parse_response(written)
    assert isinstance(again, dict), (again, written)
    for key in ("status", "framing", "reason", "upgrade"):
        assert again[key] == head[key], key
    assert kept(again) == kept(head)
    assert http1.rewrite_response(written) == written


def check_chunks(data: bytes, seed: int, allow_extensions: bool) -> None:
    whole = http1.read_chunks([data], allow_extensions)
    assert whole[1] in ("end", "more", "bad_chunk", "bad_trailer")
    parts = http1.read_chunks(split(data, seed), allow_extensions)
    assert parts[:2] == whole[:2]
    if whole[1] != "end":
        return
    assert parts[2] == whole[2]
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        parser.feed_data(head + data[: whole[2]])
    except httptools.HttpParserError:
        return
    assert seen.is_complete
    assert bytes(seen.body) == whole[0]


def one_input(data: bytes) -> None:
    if not data:
        return
    mode, seed = data[0] & 3, data[0] >> 2
    if mode == 0:
        check_request(data[1:], seed)
    elif mode == 1:
        check_response(data[1:])
    else:
        check_chunks(data[1:], seed, mode == 3)
