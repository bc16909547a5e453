"""What is refused at the door: an answer with a reason, the connection closed, a record, and
not a byte at the target."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Tunnel, chunked, wait_until

pytestmark = pytest.mark.sanitized

GET = "GET / HTTP/1.1"
POST = "POST / HTTP/1.1"


def post(*fields: str, body: bytes = b"") -> tuple[str, tuple[str, ...], bytes]:
    return POST, fields, body


def get(*fields: str) -> tuple[str, tuple[str, ...], bytes]:
    return GET, fields, b""


# name: (request line, further fields, body), status, reason
REFUSED = {
    "length and chunked": (
        post("Content-Length: 5", "Transfer-Encoding: chunked", body=chunked(b"hello")),
        400, "ambiguous_length",
    ),
    "chunked and length": (
        post("Transfer-Encoding: chunked", "Content-Length: 5", body=chunked(b"hello")),
        400, "ambiguous_length",
    ),
    "two lengths": (post("Content-Length: 2", "Content-Length: 2"), 400, "bad_content_length"),
    "a list of lengths": (post("Content-Length: 2, 2"), 400, "bad_content_length"),
    "a signed length": (post("Content-Length: +2"), 400, "bad_content_length"),
    "a negative length": (post("Content-Length: -2"), 400, "bad_content_length"),
    "a hexadecimal length": (post("Content-Length: 0x2"), 400, "bad_content_length"),
    "an empty length": (post("Content-Length: "), 400, "bad_content_length"),
    "a huge length": (post(f"Content-Length: {2**64}"), 400, "content_length_too_big"),
    "another coding": (post("Transfer-Encoding: gzip"), 400, "bad_transfer_encoding"),
    "a second coding": (post("Transfer-Encoding: gzip, chunked"), 400, "bad_transfer_encoding"),
    "chunked twice": (
        post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        400, "bad_transfer_encoding",
    ),
    "chunked with a tail": (post("Transfer-Encoding: chunked;x"), 400, "bad_transfer_encoding"),
    "xchunked": (post("Transfer-Encoding: xchunked"), 400, "bad_transfer_encoding"),
    "chunked in 1.0": (
        ("POST / HTTP/1.0", ("Transfer-Encoding: chunked",), chunked(b"hello")),
        400, "bad_transfer_encoding",
    ),
    "a second host": (get("Host: other.example"), 400, "bad_host"),
    "a folded line": (get("X-A: 1", " 2"), 400, "bad_field"),
    "a space before the colon": (get("X-A : 1"), 400, "bad_field"),
    "no colon": (get("X-A"), 400, "bad_field"),
    "an empty name": (get(": 1"), 400, "bad_field"),
    "a name with a space": (get("X A: 1"), 400, "bad_field"),
    "a control character": (get("X-A: 1\x012"), 400, "bad_field"),
    "a bare CR": (get("X-A: 1\r2"), 400, "bad_line_end"),
    "a bare LF": (get("X-A: 1\nX-B: 2"), 400, "bad_line_end"),
    "a NUL": (get("X-A: 1\x002"), 400, "bad_line_end"),
    "two spaces": (("GET  / HTTP/1.1", (), b""), 400, "bad_request_line"),
    "no version": (("GET /", (), b""), 400, "bad_request_line"),
    "a lower-case version": (("GET / http/1.1", (), b""), 400, "bad_version"),
    "HTTP/2.0": (("GET / HTTP/2.0", (), b""), 505, "version_unsupported"),
    "a fragment": (("GET /#x HTTP/1.1", (), b""), 400, "bad_target"),
    "another scheme": (("GET ftp://a/ HTTP/1.1", (), b""), 400, "bad_target"),
    "a target that is no path": (("GET x HTTP/1.1", (), b""), 400, "bad_target"),
    "user information": (("GET http://a@b/ HTTP/1.1", (), b""), 400, "bad_host"),
    "CONNECT": (("CONNECT a:443 HTTP/1.1", (), b""), 405, "method_not_allowed"),
    "TRACE": (("TRACE / HTTP/1.1", (), b""), 405, "method_not_allowed"),
    "another expectation": (get("Expect: 200-ok"), 417, "bad_expect"),
    "a malformed upgrade": (get("Connection: Upgrade", "Upgrade: @"), 400, "bad_upgrade"),
    "two X-Proxy-Tunnel": (get("X-Proxy-Tunnel: a", "X-Proxy-Tunnel: b"), 400, "bad_field"),
    "a long request line": ((f"GET /{'x' * 8200} HTTP/1.1", (), b""), 414, "line_too_long"),
    "a large head": (get(*(f"X-{n}: {'x' * 4000}" for n in range(9))), 431, "too_large"),
    "many fields": (get(*(f"X-{n}: 1" for n in range(129))), 431, "too_large"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_head_reaches_no_target(tunnel: Tunnel, name: str) -> None:
    (line, fields, body), status, reason = REFUSED[name]
    before = tunnel.pair.stats()
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head(line, *fields) + body)
        response = visitor.response("HEAD" if line.startswith("HEAD") else "GET")
        assert (response.status, response.json()["error"]) == (status, reason)
        assert response.values("connection") == ["close"]
        assert (response.values("allow") != []) == (status == 405)
        assert visitor.is_closed()
    after = tunnel.pair.stats()
    assert after["bad_requests"] == before["bad_requests"] + 1
    assert after["streams_opened"] == before["streams_opened"]
    assert tunnel.target.received == b""


def test_every_refusal_is_in_the_log_with_its_reason(tunnel: Tunnel) -> None:
    expected = {}
    for (line, fields, body), status, reason in REFUSED.values():
        response = tunnel.ask(line, *fields, body=body)
        expected[response.id] = (status, reason)
    for request_id, outcome in expected.items():
        row = tunnel.pair.row(request_id)
        assert (row["status"], row["reason"]) == outcome
        assert (row["tunnel"], row["visitor"]) == (None, "127.0.0.1")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "bad_host"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "bad_host"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "bad_host"),
        (b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", "bad_host"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "bad_line_end"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "bad_request_line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
    ],
)
def test_what_is_no_request_for_us_is_refused(tunnel: Tunnel, raw: bytes, reason: str) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(raw)
        response = visitor.response()
        assert response.status in (400, 505)
        if reason:
            assert response.json()["error"] == reason
        assert visitor.is_closed()
    tunnel.pair.expect_row(response.id, status=response.status)


BAD_BODIES = {
    "no hexadecimal digits": (b"zz\r\nhello\r\n0\r\n\r\n", "bad_chunk"),
    "a chunk extension": (b"5;a=b\r\nhello\r\n0\r\n\r\n", "bad_chunk"),
    "a bare LF behind a size": (b"5\nhello\r\n0\r\n\r\n", "bad_chunk"),
    "0x": (b"0x5\r\nhello\r\n0\r\n\r\n", "bad_chunk"),
    "a sign": (b"+5\r\nhello\r\n0\r\n\r\n", "bad_chunk"),
    "an overlong chunk": (b"5\r\nhelloworld\r\n0\r\n\r\n", "bad_chunk"),
    "a huge size": (b"ffffffffffffffff0\r\nhello\r\n0\r\n\r\n", "bad_chunk"),
    "a framing field as trailer": (b"0\r\nContent-Length: 5\r\n\r\n", "bad_trailer"),
    "a malformed trailer": (b"0\r\nX A: 5\r\n\r\n", "bad_trailer"),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_malformed_chunk_ends_request_and_connection(
    tunnel: Tunnel, name: str, at_once: bool
) -> None:
    body, reason = BAD_BODIES[name]
    head = tunnel.head(POST, "Transfer-Encoding: chunked")
    smuggled = tunnel.head("GET /smuggled HTTP/1.1")
    with tunnel.visitor() as visitor:
        if at_once:
            visitor.send(head + body + smuggled)
        else:
            visitor.send(head)
            wait_until(lambda: tunnel.target.requests)
            visitor.send(body + smuggled)
        response = visitor.response()
        assert (response.status, response.json()["error"]) == (400, reason)
        assert visitor.is_closed()
    # The target may have got the head and good chunks, never an end, never another request.
    wait_until(lambda: all(peer.ended for peer in tunnel.target.peers))
    assert not any(request.body_read for request in tunnel.target.requests)
    assert b"smuggled" not in tunnel.target.received
    tunnel.pair.expect_row(response.id, status=400, reason=reason, tunnel=tunnel.name)


def test_a_refused_request_in_a_pipeline_ends_it(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(
            tunnel.head("GET /1 HTTP/1.1") + tunnel.head("GET /2 HTTP/1.1", "X : 1")
            + tunnel.head("GET /3 HTTP/1.1")
        )  # fmt: skip
        assert [visitor.response().status for _ in range(2)] == [200, 400]
        assert visitor.is_closed()
    assert [request.path for request in tunnel.target.requests] == ["/1"]


def test_a_refusal_reaches_a_visitor_that_is_still_sending(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head(POST, "Content-Length: 30000", "X : 1") + b"x" * 30_000)
        assert visitor.response().status == 400  # not a reset that overtakes it
        assert visitor.is_closed()
