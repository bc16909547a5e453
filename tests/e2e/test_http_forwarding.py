"""What a target gets: the recording target's bytes are the only true witness."""

from __future__ import annotations

import re

import pytest

from tests.e2e.harness import Tunnel, chunked, ok, reply


def test_a_plain_get_arrives_with_exactly_these_bytes(any_tunnel: Tunnel) -> None:
    response = any_tunnel.ask(
        "GET /a%20b/../c?x=1&y= HTTP/1.1", "User-Agent: test", "accept:  */*  "
    )
    assert response.status == 200
    assert any_tunnel.target.received == (
        b"GET /a%%20b/../c?x=1&y= HTTP/1.1\r\n"
        b"Host: %b\r\n"
        b"User-Agent: test\r\n"
        b"accept:  */*  \r\n"
        b"X-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: %b\r\n"
        b"X-Request-Id: %b\r\n"
        b"\r\n" % (any_tunnel.host, any_tunnel.host, response.id.encode())
    )
    assert re.fullmatch("[0-9a-f]{32}", response.id)


def test_a_post_arrives_with_exactly_these_bytes(any_tunnel: Tunnel) -> None:
    response = any_tunnel.ask(
        "POST /form HTTP/1.1",
        "Content-Type: text/plain",
        "content-length: 11",
        "X-Request-Id: abc.123",
        body=b"hello world",
    )
    assert (response.status, response.id) == (200, "abc.123")
    assert any_tunnel.target.received == (
        b"POST /form HTTP/1.1\r\n"
        b"Host: %b\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Length: 11\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: %b\r\n"
        b"X-Request-Id: abc.123\r\n"
        b"\r\nhello world" % (any_tunnel.host, any_tunnel.host)
    )


def test_a_chunked_upload_arrives_with_exactly_these_bytes(any_tunnel: Tunnel) -> None:
    body = chunked(b"first", b"x" * 300, trailers=b"X-Sum: 7\r\nX-More: yes\r\n")
    response = any_tunnel.ask(
        "PUT /file HTTP/1.1", "Trailer: X-Sum", "Transfer-Encoding: Chunked",
        "X-Request-Id: 1", body=body,
    )  # fmt: skip
    assert response.status == 200
    assert any_tunnel.target.received == (
        b"PUT /file HTTP/1.1\r\n"
        b"Host: %b\r\n"
        b"Trailer: X-Sum\r\n"
        b"Transfer-Encoding: chunked\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: %b\r\n"
        b"X-Request-Id: 1\r\n"
        b"\r\n%b" % (any_tunnel.host, any_tunnel.host, body)
    )
    [request] = any_tunnel.target.requests
    assert request.body == b"first" + b"x" * 300
    assert request.trailers == [("x-sum", "7"), ("x-more", "yes")]


def test_an_upgrade_arrives_with_exactly_these_bytes(any_tunnel: Tunnel) -> None:
    response = any_tunnel.ask(
        "GET /chat HTTP/1.1", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        "X-Request-Id: 2",
    )  # fmt: skip
    assert response.status == 200  # the target declines, which it may
    assert any_tunnel.target.received == (
        b"GET /chat HTTP/1.1\r\n"
        b"Host: %b\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: %b\r\n"
        b"X-Request-Id: 2\r\n"
        b"Connection: Upgrade\r\n"
        b"Upgrade: websocket\r\n"
        b"\r\n" % (any_tunnel.host, any_tunnel.host)
    )


def test_an_http_1_0_request_becomes_1_1_with_a_host(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(b"GET / HTTP/1.0\r\nX-Proxy-Tunnel: %b\r\n\r\n" % tunnel.name.encode())
        assert visitor.response().status == 200
    [request] = tunnel.target.requests
    assert request.head.startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    assert request.values("x-forwarded-host") == []


def test_hop_by_hop_fields_stay_here_and_all_others_go_on_in_order(tunnel: Tunnel) -> None:
    tunnel.ask(
        "GET / HTTP/1.1",
        "X-First: 1",
        "Connection: close, X-Mine, keep-alive",
        "Keep-Alive: timeout=5",
        "X-Mine: secret",
        "Proxy-Connection: keep-alive",
        "Proxy: http://evil.example/",
        "TE: deflate",
        "Upgrade: nothing",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Cookie: a=b",
        "Authorization: Basic eDp5",
        "X-Twice: 1",
        "x-twice: 2",
    )
    [request] = tunnel.target.requests
    names = [name for name, _ in request.fields]
    assert names == [
        "host", "x-first", "cookie", "authorization", "x-twice", "x-twice",
        "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id",
    ]  # fmt: skip
    assert request.values("x-twice") == ["1", "2"]


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Authorization", "Cookie"])
def test_a_field_that_matters_is_not_dropped_because_connection_names_it(
    tunnel: Tunnel, name: str
) -> None:
    response = tunnel.ask(
        "POST / HTTP/1.1", f"Connection: {name}", "Content-Length: 2", "Authorization: x",
        "Cookie: a=b", body=b"hi",
    )  # fmt: skip
    [request] = tunnel.target.requests
    assert response.status == 200
    assert request.body == b"hi"
    for kept in ("host", "content-length", "authorization", "cookie"):
        assert len(request.values(kept)) == 1


def test_te_trailers_is_passed_on_as_our_own_hop(tunnel: Tunnel) -> None:
    tunnel.ask("GET / HTTP/1.1", "Connection: TE", "TE: trailers, deflate")
    [request] = tunnel.target.requests
    assert (request.values("te"), request.values("connection")) == (["trailers"], ["TE"])


def test_forwarding_fields_of_the_visitor_are_replaced(tunnel: Tunnel) -> None:
    tunnel.ask(
        "GET / HTTP/1.1",
        "X-Forwarded-For: 10.0.0.1",
        "x-forwarded-for: 10.0.0.2",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Port: 1",
        "X-Real-IP: 10.0.0.3",
        "Forwarded: for=10.0.0.4",
    )
    [request] = tunnel.target.requests
    assert b"10.0.0." not in request.head and b"evil" not in request.head
    assert request.values("x-forwarded-for") == ["127.0.0.1"]
    assert request.values("x-forwarded-proto") == ["http"]
    assert request.values("x-forwarded-host") == [tunnel.host.decode()]
    assert request.values("x-forwarded-port") == request.values("forwarded") == []


@pytest.mark.parametrize("given", ["", "no spaces please", 'a"b', "x" * 129, "ab<cd"])
def test_a_request_id_that_is_no_token_is_replaced(tunnel: Tunnel, given: str) -> None:
    response = tunnel.ask("GET / HTTP/1.1", f"X-Request-Id: {given}")
    assert re.fullmatch("[0-9a-f]{32}", response.id)
    [request] = tunnel.target.requests
    assert request.values("x-request-id") == [response.id]


def test_request_ids_are_never_the_same(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head() * 50)
        assert len({visitor.response().id for _ in range(50)}) == 50


def test_a_response_arrives_with_exactly_these_bytes(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = reply(
        b"HTTP/1.1 404 Not  here\r\n"
        b"Date: Sun, 22 Nov 2026 00:00:00 GMT\r\n"
        b"Connection: keep-alive, X-Own\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"X-Own: 1\r\n"
        b"Set-Cookie: a=1\r\n"
        b"set-cookie: b=2\r\n"
        b"X-Request-Id: from the target\r\n"
        b"Content-Length: 4\r\n"
        b"Proxy-Connection: x\r\n"
        b"\r\ngone"
    )
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("GET / HTTP/1.1", "X-Request-Id: 5", "Connection: close"))
        assert visitor.rest() == (
            b"HTTP/1.1 404 Not  here\r\n"
            b"Date: Sun, 22 Nov 2026 00:00:00 GMT\r\n"
            b"Set-Cookie: a=1\r\n"
            b"set-cookie: b=2\r\n"
            b"Content-Length: 4\r\n"
            b"X-Request-Id: 5\r\n"
            b"Connection: close\r\n"
            b"\r\ngone"
        )


def test_bytes_above_ascii_in_values_pass_both_ways(tunnel: Tunnel) -> None:
    tunnel.target.handler = reply(ok(b"", "X-Back: \xfc\xe4"))
    response = tunnel.ask("GET /%C3%A9 HTTP/1.1", "X-There: \xe9\x80")
    [request] = tunnel.target.requests
    assert request.values("x-there") == ["\xe9\x80"]
    assert response.values("x-back") == ["\xfc\xe4"]
