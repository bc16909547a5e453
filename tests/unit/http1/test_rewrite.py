"""Heads as they leave us, byte for byte."""

from __future__ import annotations

import pytest

from proxy_engine_core._testing import http1

CHUNK, CLOSE = 1, 2


def test_request_is_written_in_canonical_form() -> None:
    source = (
        b"GET /a?b HTTP/1.1\r\nX-One: 1\r\nhost:  web.example.com:81\r\nX-Two:2 \r\n"
        b"Keep-Alive: 5\r\nX-Three: 3\r\n\r\n"
    )
    assert http1.rewrite_request(source) == (
        b"GET /a?b HTTP/1.1\r\nHost: web.example.com:81\r\nX-One: 1\r\nX-Two:2 \r\nX-Three: 3\r\n"
        b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: web.example.com:81\r\nX-Request-Id: id-1\r\n\r\n"
    )


def test_absolute_target_becomes_path_and_host() -> None:
    written = http1.rewrite_request(b"GET http://a.example HTTP/1.1\r\nHost: b.example\r\n\r\n")
    assert written.startswith(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For:")
    assert b"X-Forwarded-Host: a.example\r\n" in written
    assert b"b.example" not in written


def test_http_1_0_request_is_sent_as_1_1_with_a_host() -> None:
    written = http1.rewrite_request(b"GET / HTTP/1.0\r\n\r\n")
    assert written.startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    assert b"X-Forwarded-Host" not in written


def test_framing_fields_are_written_anew_in_their_place() -> None:
    written = http1.rewrite_request(
        b"POST / HTTP/1.1\r\nHost: a\r\nA: 1\r\ncontent-length:\t5 \r\nB: 2\r\n\r\n"
    )
    assert b"A: 1\r\nContent-Length: 5\r\nB: 2\r\n" in written
    written = http1.rewrite_request(
        b"POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING:Chunked\r\nB: 2\r\n\r\n"
    )
    assert b"Host: a\r\nTransfer-Encoding: chunked\r\nB: 2\r\n" in written


SPOOFED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\nForwarded: for=10.0.0.3\r\n"
    b"X-Real-IP: 10.0.0.4\r\nX_Forwarded_For: 10.0.0.5\r\n\r\n"
)


def test_forwarded_fields_of_untrusted_visitors_are_replaced() -> None:
    assert http1.rewrite_request(SPOOFED, request_id=b"r", address=b"2001:db8::1") == (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\n"
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Request-Id: r\r\n\r\n"
    )


def test_forwarded_fields_of_trusted_peers_are_kept_and_appended_to() -> None:
    assert http1.rewrite_request(SPOOFED, request_id=b"r", is_trusted=True) == (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n"
        b"Forwarded: for=10.0.0.3\r\nX-Real-IP: 10.0.0.4\r\n"
        b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 192.0.2.7\r\nX-Forwarded-Host: a\r\n"
        b"X-Request-Id: r\r\n\r\n"
    )


def test_tls_is_told_to_the_target() -> None:
    written = http1.rewrite_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", is_tls=True)
    assert b"X-Forwarded-Proto: https\r\n" in written


def test_request_id_and_tunnel_of_the_visitor_do_not_travel() -> None:
    written = http1.rewrite_request(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: theirs\r\nX-Proxy-Tunnel: web\r\n\r\n"
    )
    assert b"theirs" not in written
    assert b"X-Proxy-Tunnel" not in written
    assert written.count(b"X-Request-Id: id-1\r\n") == 1


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        (
            b"Connection: upgrade\r\nUpgrade: websocket\r\n",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (b"Connection: TE\r\nTE: gzip, trailers\r\n", b"TE: trailers\r\nConnection: TE\r\n\r\n"),
        (
            b"Connection: TE, upgrade\r\nTE: trailers\r\nUpgrade: x\r\n",
            b"TE: trailers\r\nConnection: TE, Upgrade\r\nUpgrade: x\r\n\r\n",
        ),
        (
            b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n",
            b"X-Request-Id: id-1\r\n\r\n",
        ),
        (b"Connection: close\r\nTE: gzip\r\n", b"X-Request-Id: id-1\r\n\r\n"),
    ],
)
def test_connection_is_written_by_us(fields: bytes, end: bytes) -> None:
    written = http1.rewrite_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert written.endswith(end)
    assert written.lower().count(b"connection:") == end.count(b"Connection:")


def test_response_is_written_with_its_fields_in_order() -> None:
    source = (
        b"HTTP/1.0 404 Not Found\r\nServer: x\r\nDate: y\r\nConnection: close, X-A\r\nX-A: 1\r\n"
        b"content-length: 0005\r\nX-Request-Id: theirs\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )
    assert http1.rewrite_response(source) == (
        b"HTTP/1.1 404 Not Found\r\nServer: x\r\nDate: y\r\nContent-Length: 5\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\nX-Request-Id: id-1\r\n\r\n"
    )


def test_response_without_a_reason_keeps_its_space() -> None:
    assert http1.rewrite_response(b"HTTP/1.1 200\r\n\r\n", request_id=b"") == (
        b"HTTP/1.1 200 \r\n\r\n"
    )


@pytest.mark.parametrize(
    ("keep_alive", "minor_version", "connection"),
    [
        (True, 1, b""),
        (False, 1, b"Connection: close\r\n"),
        (True, 0, b"Connection: keep-alive\r\n"),
        (False, 0, b"Connection: close\r\n"),
    ],
)
def test_connection_tells_the_visitor_what_we_do(
    keep_alive: bool, minor_version: int, connection: bytes
) -> None:
    written = http1.rewrite_response(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
        keep_alive=keep_alive,
        visitor_minor_version=minor_version,
    )
    assert written == b"HTTP/1.1 200 OK\r\nX-Request-Id: id-1\r\n" + connection + b"\r\n"


def test_close_delimited_response_is_announced_as_chunked() -> None:
    written = http1.rewrite_response(b"HTTP/1.0 200 OK\r\nA: 1\r\n\r\n", reframe=CHUNK)
    assert written == (
        b"HTTP/1.1 200 OK\r\nA: 1\r\nX-Request-Id: id-1\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def test_chunked_response_loses_its_coding_for_http_1_0() -> None:
    written = http1.rewrite_response(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nA: 1\r\n\r\n",
        reframe=CLOSE,
        keep_alive=False,
        visitor_minor_version=0,
    )
    assert written == (
        b"HTTP/1.1 200 OK\r\nA: 1\r\nX-Request-Id: id-1\r\nConnection: close\r\n\r\n"
    )


def test_interim_response_has_only_its_own_fields() -> None:
    source = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nContent-Length: 0\r\n\r\n"
    assert http1.rewrite_response(source, keep_alive=False) == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    )


def test_switching_protocols_keeps_the_upgrade() -> None:
    source = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: x\r\n\r\n"
    )
    assert http1.rewrite_response(source, keep_alive=False) == (
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nX-Request-Id: id-1\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


def test_no_content_loses_its_length() -> None:
    source = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
    assert b"Content-Length" not in http1.rewrite_response(source)


def test_bound_holds_for_the_largest_head() -> None:
    # The wrapper writes into a block of exactly the bound and checks the size.
    authority = b"a" * 255 + b":65535"
    line = b"GET / HTTP/1.1\r\nHost: " + authority + b"\r\n"
    line += b"Connection: upgrade, te\r\nTE: trailers\r\n"
    upgrade = b"Upgrade: " + b"a" * (32768 - len(line) - 13) + b"\r\n\r\n"
    written = http1.rewrite_request(
        line + upgrade, address=b"1" * 48, request_id=b"i" * 128, is_tls=True
    )
    assert len(written) > 32768
    response = b"HTTP/1.1 101\r\nConnection: upgrade\r\n"
    response += b"Upgrade: " + b"a" * (32768 - len(response) - 13) + b"\r\n\r\n"
    assert len(http1.rewrite_response(response, request_id=b"i" * 128)) > 32768
