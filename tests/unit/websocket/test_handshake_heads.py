"""The heads of the opening handshake, of both sides: RFC 6455 section 4."""

from __future__ import annotations

import pytest

from proxy_engine_core.http1.python import parse_request_head
from proxy_engine_core.websocket import (
    Agreement,
    Deflate,
    HandshakeError,
    accept_request,
    check_response,
    new_key,
    refusal,
    request,
)


def fields_of(head: bytes) -> list[tuple[str, bytes]]:
    lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = (line.split(b": ", 1) for line in lines)
    return [(name.decode().lower(), value) for name, value in pairs]


@pytest.mark.parametrize("deflate", [True, False])
def test_our_client_and_our_server_agree(deflate: bool) -> None:
    key = new_key()
    asked = request(
        "example.com:8080", "/chat?x=1", key=key, subprotocols=["b", "a"], deflate=deflate,
        headers=[("Origin", "http://example.com")],
    )  # fmt: skip
    method, target, fields = parse_request_head(asked)
    assert (method, target) == ("GET", "/chat?x=1")
    assert dict(fields)["origin"] == b"http://example.com"
    server = accept_request(fields, subprotocols=["a", "b"], deflate=True, headers=[("X", "y")])
    assert server.response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert (server.subprotocol, server.deflate) == ("a", Deflate() if deflate else None)
    answer = fields_of(server.response)
    assert ("x", b"y") in answer
    client = check_response(101, answer, key=key, subprotocols=["b", "a"], deflate=deflate)
    assert client == Agreement(b"", "a", server.deflate)


def test_a_server_without_deflate_or_subprotocols_says_nothing_of_them() -> None:
    asked = request("h", key=new_key(), subprotocols=["a"], deflate=True)
    agreed = accept_request(parse_request_head(asked)[2])
    assert (agreed.subprotocol, agreed.deflate) == (None, None)
    assert {name for name, _ in fields_of(agreed.response)} == {
        "upgrade",
        "connection",
        "sec-websocket-accept",
    }


def test_a_refusal_tells_what_would_have_been_right() -> None:
    with pytest.raises(HandshakeError) as raised:
        accept_request([("host", b"h")])
    answer = refusal(raised.value)
    assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    fields = dict(fields_of(answer))
    assert (fields["upgrade"], fields["sec-websocket-version"]) == (b"websocket", b"13")
    assert int(fields["content-length"]) == len(answer.split(b"\r\n\r\n")[1])
    asked = request("h", key=new_key(), headers=[("Sec-WebSocket-Extensions", "a;")])
    with pytest.raises(HandshakeError, match="Extensions") as raised:
        accept_request(parse_request_head(asked)[2])
    assert refusal(raised.value).startswith(b"HTTP/1.1 400 Bad Request\r\n")


KEY_SENT = "dGhlIHNhbXBsZSBub25jZQ=="
ANSWER = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
}


@pytest.mark.parametrize(
    ("status", "changed", "said"),
    [
        (200, {}, "answered 200"),
        (101, {"upgrade": "h2c"}, "Upgrade"),
        (101, {"upgrade": "websocket, h2c"}, "Upgrade"),
        (101, {"connection": "close"}, "Connection"),
        (101, {"sec-websocket-accept": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}, "Accept"),
        (101, {"sec-websocket-accept": None}, "Accept"),
        (101, {"sec-websocket-protocol": "c"}, "subprotocol"),
        (101, {"sec-websocket-extensions": "permessage-deflate"}, "none was offered"),
        (101, {"sec-websocket-extensions": "a b"}, "malformed"),
    ],
)
def test_answers_a_client_does_not_take(
    status: int, changed: dict[str, str | None], said: str
) -> None:
    rows = {**ANSWER, **changed}
    fields = [(name, value.encode()) for name, value in rows.items() if value is not None]
    with pytest.raises(HandshakeError, match=said) as raised:
        check_response(status, fields, key=KEY_SENT, subprotocols=["a"])
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("name", "value"), [("A b", ""), ("", ""), ("A", "b\r\nC: d"), ("A", "\x00"), ("A", "東")]
)
def test_headers_can_not_smuggle_lines(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a header field"):
        request("h", key=KEY_SENT, headers=[(name, value)])
    with pytest.raises(ValueError, match="not a request target"):
        request("h", "/a b", key=KEY_SENT)
