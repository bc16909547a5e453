"""Bodies and connections: whatever way the bytes come in, what goes out is whole or cut, and
a cut one is never shown as complete."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from proxy_engine_core.core import LOG_ABORTED, LOG_HTTP10
from tests.e2e.harness import (
    OK,
    Handler,
    Peer,
    Request,
    Response,
    Truncated,
    Tunnel,
    Visitor,
    chunked,
    ok,
    reply,
    wait_until,
)  # fmt: skip

pytestmark = pytest.mark.sanitized

PIECE = 37  # bytes; odd, smaller than any head
SIZES = [0, 1, 36, 1000, 4095, 4096, 16_384, 16_385, 65_535, 65_536]


def pattern(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


async def by_path(peer: Peer, request: Request) -> None:
    """/n answers with pattern(n): plain, chunked and with a length by turns."""
    await peer.body(request)
    number = int(request.path.strip("/"))
    body = pattern(number, SIZES[number % len(SIZES)])
    if number % 3:
        await peer.send(ok(body))
        return
    cuts = [body[start : start + 5000] for start in range(0, len(body), 5000)]
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*cuts))


# --- keep-alive and pipelines ---


def test_many_requests_of_one_visitor_are_one_connection_at_the_target(
    any_tunnel: Tunnel,
) -> None:
    with any_tunnel.visitor() as visitor:
        for number in range(20):
            visitor.send(any_tunnel.head(f"GET /{number} HTTP/1.1"))
            assert visitor.response().status == 200
    [peer] = any_tunnel.target.peers
    assert [request.path for request in peer.requests] == [f"/{n}" for n in range(20)]


def test_visitors_one_after_the_other_share_a_connection_to_the_target(tunnel: Tunnel) -> None:
    before = tunnel.pair.stats()["streams_reused"]
    for _ in range(5):
        assert tunnel.ask().status == 200
    [peer] = tunnel.target.peers
    assert len(peer.requests) == 5
    assert tunnel.pair.stats()["streams_reused"] == before + 4


def test_pipelined_requests_are_answered_in_order(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = by_path
    with any_tunnel.visitor() as visitor:
        visitor.send(b"".join(any_tunnel.head(f"GET /{n} HTTP/1.1") for n in range(30)))
        for number in range(30):
            assert visitor.response().body == pattern(number, SIZES[number % len(SIZES)])


def test_a_pipelined_request_is_sent_on_only_after_the_answer_before_it(tunnel: Tunnel) -> None:
    release = tunnel.target.event()

    async def held(peer: Peer, request: Request) -> None:
        if request.path == "/first":
            await release.wait()
        await peer.send(ok(request.path.encode()))

    tunnel.target.handler = held
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("GET /first HTTP/1.1") + tunnel.head("GET /second HTTP/1.1"))
        wait_until(lambda: tunnel.target.requests)
        assert b"/second" not in tunnel.target.received
        tunnel.target.set_event(release)
        assert [visitor.response().body for _ in range(2)] == [b"/first", b"/second"]


def in_pieces(tunnel: Tunnel, first: int, failures: list[str]) -> None:
    """50 requests in small odd pieces while their responses come back."""
    numbers = range(first, first + 50)
    stream = b""
    for number in numbers:
        path = f"/{number} HTTP/1.1"
        if number % 4 == 1:
            stream += tunnel.head(f"POST {path}", "Content-Length: 500") + pattern(number, 500)
        elif number % 4 == 2:
            body = chunked(pattern(number, 200), b"x")
            stream += tunnel.head(f"PUT {path}", "Transfer-Encoding: chunked") + body
        else:
            stream += tunnel.head(f"GET {path}")
    with tunnel.visitor() as visitor:

        def send() -> None:
            for start in range(0, len(stream), PIECE):
                visitor.send(stream[start : start + PIECE])

        sender = threading.Thread(target=send)
        sender.start()
        for number in numbers:
            if visitor.response().body != pattern(number, SIZES[number % len(SIZES)]):
                failures.append(f"response {number} is wrong")
                return
        sender.join()


def test_requests_in_small_odd_pieces_get_exact_responses(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = by_path
    failures: list[str] = []

    def connection(first: int) -> None:
        try:
            in_pieces(any_tunnel, first, failures)
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=connection, args=(1000 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    requests = any_tunnel.target.requests
    assert len(requests) == 300
    for request in requests:
        number = int(request.path.strip("/"))
        if number % 4 == 1:
            assert request.body == pattern(number, 500)
        elif number % 4 == 2:
            assert request.body == pattern(number, 200) + b"x"


def test_a_request_byte_by_byte_is_the_same_request(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        whole = tunnel.head("POST /x HTTP/1.1", "Transfer-Encoding: chunked", "X-Request-Id: 1")
        whole += chunked(b"hello", trailers=b"A: b\r\n")
        for index in range(len(whole)):
            visitor.send(whole[index : index + 1])
        assert visitor.response().status == 200
        visitor.send(whole)
        assert visitor.response().status == 200
    [peer] = tunnel.target.peers
    half = len(peer.received) // 2
    assert peer.received[:half] == peer.received[half:]


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "GET / HTTP/1.0"])
def test_a_connection_ends_when_the_visitor_says_so(tunnel: Tunnel, line: str) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head(line, *(["Connection: close"] if "1.1" in line else [])))
        response = visitor.response()
        assert (response.status, response.values("connection")) == (200, ["close"])
        assert visitor.is_closed()


def test_an_http_1_0_visitor_may_keep_the_connection(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        for _ in range(3):
            visitor.send(tunnel.head("GET / HTTP/1.0", "Connection: keep-alive"))
            response = visitor.response()
            assert (response.body, response.values("connection")) == (b"ok", ["keep-alive"])


# --- bodies both ways ---


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_large_bodies_go_both_ways_at_once(any_tunnel: Tunnel, coding: str) -> None:
    body = pattern(7, 3_000_000)

    async def echo(peer: Peer, request: Request) -> None:
        body = await peer.body(request)
        if coding == "length":
            await peer.send(ok(body))
        else:
            cuts = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await peer.send(chunked(*cuts))

    any_tunnel.target.handler = echo
    if coding == "length":
        response = any_tunnel.ask("POST / HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    else:
        cuts = (body[at : at + 70_001] for at in range(0, len(body), 70_001))
        response = any_tunnel.ask(
            "POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*cuts)
        )
    assert response.body == body
    row = any_tunnel.pair.row(response.id)
    assert row["bytes_in"] > len(body) and row["bytes_out"] > len(body)


def test_chunks_and_trailers_come_back_as_the_target_sent_them(any_tunnel: Tunnel) -> None:
    body = chunked(b"one", b"two" * 100, trailers=b"X-Sum: 9\r\n")
    any_tunnel.target.handler = reply(
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    )
    response = any_tunnel.ask()
    assert response.raw_body == body
    assert response.trailers == [("x-sum", "9")]
    assert response.values("trailer") == ["X-Sum"]


def without_body(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {line}", *fields, "", ""]).encode()


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", without_body("200 OK", "Content-Length: 1000")),
        ("HEAD", without_body("200 OK", "Transfer-Encoding: chunked")),
        ("GET", without_body("204 No Content")),
        ("GET", without_body("204 No Content", "Content-Length: 0")),
        ("GET", without_body("304 Not Modified", "Content-Length: 1000", 'ETag: "x"')),
        ("GET", without_body("304 Not Modified")),
        ("GET", without_body("200 OK", "Content-Length: 0")),
    ],
)
def test_responses_without_a_body_end_with_their_head(
    tunnel: Tunnel, method: str, head: bytes
) -> None:
    tunnel.target.handler = reply(head, OK)
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head(f"{method} / HTTP/1.1"))
        response = visitor.response(method)
        assert (response.status, response.body) == (int(head[9:12]), b"")
        if response.status == 204:
            assert response.values("content-length") == []
        elif b"1000" in head:
            assert response.values("content-length") == ["1000"]
        visitor.send(tunnel.head())
        assert visitor.response().body == b"ok"
    [peer] = tunnel.target.peers  # the connection went on on both sides
    assert len(peer.requests) == 2


def test_a_body_as_large_as_allowed_passes_and_a_larger_one_is_413(
    tunnel_with: Callable[..., Tunnel],
) -> None:
    tunnel = tunnel_with(body_size_max=1000)
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("POST / HTTP/1.1", "Content-Length: 1000") + b"x" * 1000)
        assert visitor.response().status == 200
    for fields, body in (
        (["Content-Length: 1001"], b"x" * 1001),
        (["Transfer-Encoding: chunked"], chunked(b"x" * 600, b"x" * 600)),
    ):
        tunnel.target.restart()
        with tunnel.visitor() as visitor:
            visitor.send(tunnel.head("POST /big HTTP/1.1", *fields) + body)
            response = visitor.response()
            assert (response.status, response.json()["error"]) == (413, "body_too_large")
            assert visitor.is_closed()
        assert tunnel.pair.row(response.id)["reason"] == "body_too_large"
        assert not any(request.body_read for request in tunnel.target.requests)


# --- interim responses ---

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"


def test_early_hints_are_relayed_as_they_are_to_http_1_1(any_tunnel: Tunnel) -> None:
    release = any_tunnel.target.event()

    async def hints(peer: Peer, request: Request) -> None:
        await peer.send(HINTS)
        await release.wait()
        await peer.send(HINTS.replace(b"a.css", b"b.css") + OK)

    any_tunnel.target.handler = hints
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head())
        assert visitor.head().head == HINTS  # while the target still thinks
        any_tunnel.target.set_event(release)
        response = visitor.response()
        assert [found.values("link")[0][:7] for found in response.interim] == ["</b.css"]
        assert response.body == b"ok"


def test_early_hints_are_not_shown_to_http_1_0(tunnel: Tunnel) -> None:
    tunnel.target.handler = reply(HINTS + HINTS + OK)
    response = tunnel.ask("GET / HTTP/1.0")
    assert (response.interim, response.body) == ([], b"ok")


async def continues(peer: Peer, request: Request) -> None:
    assert request.values("expect") == ["100-continue"]
    assert len(peer.received) == len(request.head)  # nothing came before we asked for it
    await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await peer.send(ok(await peer.body(request)))


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], chunked(b"hello")),
    ],
)
def test_the_targets_100_continue_comes_before_the_body(
    any_tunnel: Tunnel, fields: list[str], body: bytes
) -> None:
    any_tunnel.target.handler = continues
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("POST / HTTP/1.1", "Expect: 100-continue", *fields))
        assert visitor.head().status == 100
        visitor.send(body)
        assert visitor.response().body == b"hello"


def test_a_final_answer_instead_of_100_continue_ends_the_connection(tunnel: Tunnel) -> None:
    async def refuses(peer: Peer, request: Request) -> None:
        await peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await peer.wait_ended()

    tunnel.target.handler = refuses
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("POST / HTTP/1.1", "Expect: 100-continue", "Content-Length: 5"))
        response = visitor.response()
        assert (response.status, response.values("connection")) == (401, ["close"])
        assert visitor.is_closed()
    # Its stream still waits for a body: it must not be reused.
    tunnel.target.restart()
    assert tunnel.ask().status == 200
    assert len(tunnel.target.peers) == 1


def test_expect_of_http_1_0_is_ignored(tunnel: Tunnel) -> None:
    response = tunnel.ask(
        "POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 2", body=b"hi"
    )
    [request] = tunnel.target.requests
    assert (response.status, request.values("expect"), request.body) == (200, [], b"hi")


# --- other framings ---

CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


def until_close(*parts: bytes) -> Handler:
    async def handler(peer: Peer, request: Request) -> None:
        for part in parts:
            await peer.send(part)
        peer.close()

    return handler


def test_a_chunked_response_is_decoded_for_http_1_0(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = reply(
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(b"one,", b"two", trailers=b"X-Sum: 9\r\n")
    )
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("GET / HTTP/1.0", "Connection: keep-alive"))
        response = visitor.response()
        assert response.body == b"one,two"  # up to the end of the connection
        assert response.values("transfer-encoding") == response.values("trailer") == []
        assert response.values("connection") == ["close"]


@pytest.mark.parametrize("body", [b"", b"all of it", b"x" * 200_000])
def test_a_close_delimited_response_is_chunked_for_http_1_1(
    any_tunnel: Tunnel, body: bytes
) -> None:
    any_tunnel.target.handler = until_close(CLOSE_DELIMITED, body)
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head())
        response = visitor.response()
        assert response.values("transfer-encoding") == ["chunked"]
        assert response.body == body
        any_tunnel.target.handler = reply(OK)
        visitor.send(any_tunnel.head())  # the visitor's connection goes on
        assert visitor.response().body == b"ok"


@pytest.mark.parametrize("body", [b"", b"all of it", b"x" * 200_000])
def test_a_close_delimited_response_stays_one_for_http_1_0(tunnel: Tunnel, body: bytes) -> None:
    tunnel.target.handler = until_close(CLOSE_DELIMITED, body)
    response = tunnel.ask("GET / HTTP/1.0", "Connection: keep-alive")
    assert (response.body, response.values("connection")) == (body, ["close"])


def test_an_http_1_0_target_is_understood(tunnel: Tunnel) -> None:
    tunnel.target.handler = until_close(b"HTTP/1.0 200 OK\r\n\r\nold", b" but good")
    response = tunnel.ask()
    assert (response.head[:13], response.body) == (b"HTTP/1.1 200 ", b"old but good")


# --- cut short ---


def cut(*parts: bytes, reset: bool) -> Handler:
    """Send these and end the connection once the visitor has the first."""

    async def handler(peer: Peer, request: Request) -> None:
        for part in parts:
            await peer.send(part)
        if reset:
            peer.reset()
        else:
            peer.close()

    return handler


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "GET / HTTP/1.0"])
@pytest.mark.parametrize(
    ("response", "reset"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", True),
        (CLOSE_DELIMITED + b"some of it", True),
    ],
)
def test_a_truncated_response_is_never_shown_as_complete(
    any_tunnel: Tunnel, line: str, response: bytes, reset: bool
) -> None:
    release = any_tunnel.target.event()

    async def handler(peer: Peer, request: Request) -> None:
        await peer.send(response)
        await release.wait()  # until it is through: a reset may overtake what is in flight
        if reset:
            peer.reset()
        else:
            peer.close()

    any_tunnel.target.handler = handler
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head(line))
        head = visitor.head()
        any_tunnel.target.set_event(release)
        with pytest.raises(Truncated) as caught:
            finish(visitor, head)
    # Where only the end of the connection ends the body, it must not be a clean end.
    if not head.values("content-length") and not head.values("transfer-encoding"):
        assert caught.value.was_reset
    flags = LOG_ABORTED | (LOG_HTTP10 if line.endswith("1.0") else 0)
    any_tunnel.pair.expect_row(head.id, status=200, reason="target_lost", flags=flags)


def finish(visitor: Visitor, head: Response) -> None:
    """Read on behind a head that was taken already."""
    visitor.buffer = head.head + visitor.buffer
    visitor.response()


def test_a_malformed_chunk_in_a_response_cuts_it(tunnel: Tunnel) -> None:
    tunnel.target.handler = reply(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
    )
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head())
        with pytest.raises(Truncated):
            visitor.response()
    [row] = tunnel.pair.wait_rows(host=tunnel.host.decode())
    assert (row["status"], row["reason"]) == (200, "bad_response")


# --- ends of connections ---


def test_an_early_response_is_shown_while_the_upload_still_runs(any_tunnel: Tunnel) -> None:
    async def early(peer: Peer, request: Request) -> None:
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.wait_ended()

    any_tunnel.target.handler = early
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("POST / HTTP/1.1", "Content-Length: 1000000") + b"x" * 1000)
        response = visitor.response()
        assert (response.status, response.body) == (413, b"big")
        assert response.values("connection") == ["close"]
        visitor.send(b"x" * 1000)  # what was on its way does no harm
        assert visitor.is_closed()
    any_tunnel.target.restart()
    assert any_tunnel.ask().status == 200
    assert len(any_tunnel.target.peers) == 1  # a new one: the other waits for its body


def test_an_early_response_can_take_its_time(tunnel: Tunnel) -> None:
    """The head while the body comes in, the rest after it: both go on side by side."""

    async def echo_as_it_comes(peer: Peer, request: Request) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await peer.send(await peer.read_exactly(1))

    tunnel.target.handler = echo_as_it_comes
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("POST / HTTP/1.1", "Content-Length: 10"))
        assert visitor.head().status == 200
        for digit in b"0123456789":
            visitor.send(bytes([digit]))
            assert visitor.take(1) == bytes([digit])


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "GET / HTTP/1.0"])
def test_a_half_closed_visitor_gets_its_answer(any_tunnel: Tunnel, line: str) -> None:
    release = any_tunnel.target.event()

    async def held(peer: Peer, request: Request) -> None:
        await release.wait()
        await peer.send(ok(b"x" * 300_000))

    any_tunnel.target.handler = held
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head(line))
        visitor.finish()
        wait_until(lambda: any_tunnel.target.requests)
        any_tunnel.target.set_event(release)
        assert visitor.response().body == b"x" * 300_000
        assert visitor.is_closed()


def test_a_half_closed_visitor_that_reads_slowly_gets_all_of_its_answer(tunnel: Tunnel) -> None:
    body = b"x" * 2_000_000
    tunnel.target.handler = reply(ok(body))
    with tunnel.visitor() as visitor:
        visitor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        visitor.send(tunnel.head())
        visitor.finish()
        time.sleep(0.2)  # the end of its input is seen while the answer still waits for it
        assert visitor.response().body == body
        assert visitor.is_closed()


def test_a_half_closed_visitor_gets_all_its_pipelined_answers(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head() * 10)
        visitor.finish()
        assert [visitor.response().status for _ in range(10)] == [200] * 10
        assert visitor.is_closed()


def test_an_upload_that_ends_too_early_is_never_complete_at_the_target(tunnel: Tunnel) -> None:
    uploads = [
        (["Content-Length: 10"], b"12345"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n"),
    ]
    for fields, body in uploads:
        with tunnel.visitor() as visitor:
            visitor.send(tunnel.head("POST / HTTP/1.1", *fields) + body)
            wait_until(partial(lambda sent: tunnel.target.received.endswith(sent), body))
            visitor.finish()
            assert visitor.is_closed()
    wait_until(lambda: all(peer.ended for peer in tunnel.target.peers))
    assert not any(request.body_read for request in tunnel.target.requests)
    rows = tunnel.pair.wait_rows(2, host=tunnel.host.decode())
    assert {(row["status"], row["reason"]) for row in rows} == {(0, "visitor_gone")}


def test_a_visitor_that_goes_away_frees_the_target(any_tunnel: Tunnel) -> None:
    async def never(peer: Peer, request: Request) -> None:
        await peer.wait_ended()

    any_tunnel.target.handler = never
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head())
        wait_until(lambda: any_tunnel.target.requests)
        visitor.reset()
    wait_until(lambda: any_tunnel.target.peers[0].ended)
    [row] = any_tunnel.pair.wait_rows(host=any_tunnel.host.decode())
    assert (row["status"], row["reason"]) == (0, "visitor_gone")


def test_a_slow_reader_gets_everything(tunnel: Tunnel) -> None:
    body = pattern(3, 5_000_000)
    tunnel.target.handler = reply(ok(body))
    with tunnel.visitor() as visitor:
        visitor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        visitor.send(tunnel.head())
        assert visitor.head().status == 200
        # Others are served while this one does not read.
        tunnel.target.handler = reply(OK)
        assert tunnel.ask().status == 200
        assert visitor.take(len(body)) == body
