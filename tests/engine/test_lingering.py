"""Visitors that are answered while they still send: a reset must not overtake the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.harness import Response, Server, Visitor, serving
from tests.engine.tlsparts import serving_tls

BODY = bytes(1 << 20)
PATIENT: dict[str, Any] = {"linger_timeout_ms": 60_000, "body_size_max": 100_000}


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with (serving if request.param == "plain" else serving_tls)(1, **PATIENT) as made:
        yield made


def upload(visitor: Visitor, host: str) -> Response:
    """All of it is sent before a byte of the answer is read, as many clients do."""
    size = 48 * len(BODY)
    visitor.send(f"POST /u HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode())
    for _ in range(48):
        visitor.send(BODY)
    return visitor.response()


@pytest.mark.parametrize("host", ["nobody.test", "web.test"])
def test_a_refused_upload_may_end_first(server: Server, host: str) -> None:
    server.device()
    for _ in range(3):
        visitor = server.visitor()
        answer = upload(visitor, host)
        assert answer.status == (404 if host == "nobody.test" else 413)
        assert visitor.rest() == b""
    assert server.stat("lingers_cut_off") == 0


def test_an_upload_that_becomes_too_large_may_end_first(server: Server) -> None:
    server.device()
    visitor = server.visitor()
    visitor.send(b"POST /u HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(40):
        visitor.send(b"%x\r\n" % len(BODY) + BODY + b"\r\n")
    assert visitor.response().status == 413
    assert visitor.rest() == b""


def test_plain_http_on_a_tls_port_may_end_first() -> None:
    with serving_tls(1, **PATIENT) as server:
        visitor = server.visitor(tls=None)
        visitor.send(b"POST /u HTTP/1.1\r\nHost: web.test\r\nContent-Length: 8388608\r\n\r\n")
        for _ in range(8):
            visitor.send(BODY)
        assert visitor.response().status == 400


def test_many_requests_in_a_row_all_get_their_answers(server: Server) -> None:
    for ending in (b"", b"Connection: close\r\n"):
        for _ in range(20):
            visitor = server.visitor()
            request = b"GET / HTTP/1.1\r\nHost: nobody.test\r\n"
            visitor.send((request + b"\r\n") * 19 + request + ending + b"\r\n" + request)
            assert [visitor.response().status for _ in range(20)] == [404] * 20
            visitor.close()


def test_who_never_ends_is_cut_off_and_counted() -> None:
    with serving(1, linger_timeout_ms=50) as server:
        visitor = server.visitor()
        visitor.send(b"POST /u HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 9\r\n\r\n")
        assert visitor.response().status == 404
        server.wait_stat("lingers_cut_off", 1)
        server.wait_stat("connections_closed", 1)


def test_nobody_waits_for_what_is_read_off() -> None:
    """... of more than is read in a turn."""
    with serving(1, **PATIENT) as server:
        one, other = server.visitor(), server.visitor()
        one.send(b"POST /u HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 9000000\r\n\r\n")
        for _ in range(8):
            one.send(BODY)
            other.get("/", host="nobody.test")
            assert other.response().status == 404
        assert one.response().status == 404
