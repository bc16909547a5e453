"""Pooled connections to a target: what goes wrong on one never reaches another visitor."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import pytest

from tests.e2e.harness import OK, Handler, Peer, Request, Tunnel, ok, reply, wait_until

pytestmark = pytest.mark.sanitized


async def close_unread(peer: Peer, request: Request) -> None:
    """Close as a server does whose idle limit is over just as the request comes in."""
    peer.close()


def first_then(first: Handler, then: Handler) -> Handler:
    """A handler for the first request of a connection, another for those behind it."""

    async def handler(peer: Peer, request: Request) -> None:
        await (first if len(peer.requests) == 1 else then)(peer, request)

    return handler


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_an_idempotent_request_on_a_stale_connection_is_tried_again(
    any_tunnel: Tunnel, method: str
) -> None:
    assert any_tunnel.ask().status == 200  # now there is an idle connection
    before = any_tunnel.pair.stats()["requests_retried"]
    any_tunnel.target.handler = first_then(reply(OK), close_unread)
    response = any_tunnel.ask(f"{method} /again HTTP/1.1")
    assert response.status == 200
    assert any_tunnel.pair.stats()["requests_retried"] == before + 1
    any_tunnel.pair.expect_row(response.id, status=200, reason="", flags=2)  # retried
    heads = [request for request in any_tunnel.target.requests if request.path == "/again"]
    assert len(heads) == 2
    assert heads[0].head == heads[1].head  # the same request, with the same id


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK"])
def test_an_unsafe_request_is_never_sent_twice(any_tunnel: Tunnel, method: str) -> None:
    assert any_tunnel.ask().status == 200
    any_tunnel.target.handler = first_then(reply(OK), close_unread)
    response = any_tunnel.ask(f"{method} /once HTTP/1.1", "Content-Length: 2", body=b"hi")
    assert (response.status, response.json()["error"]) == (502, "target_lost")
    paths = [request.path for request in any_tunnel.target.requests]
    assert paths.count("/once") == 1


@pytest.mark.parametrize("size", [2, 60_000])
def test_a_put_is_tried_again_with_its_body(tunnel: Tunnel, size: int) -> None:
    body = bytes(index % 251 for index in range(size))

    async def close_after_reading(peer: Peer, request: Request) -> None:
        await peer.body(request)
        peer.close()

    assert tunnel.ask().status == 200
    tunnel.target.handler = first_then(reply(OK), close_after_reading)
    assert tunnel.ask("PUT /again HTTP/1.1", f"Content-Length: {size}", body=body).status == 200
    tries = [request for request in tunnel.target.requests if request.path == "/again"]
    assert [request.body for request in tries] == [body, body]


def test_a_put_that_is_too_big_to_keep_is_not_sent_twice(tunnel: Tunnel) -> None:
    assert tunnel.ask().status == 200
    tunnel.target.handler = first_then(reply(OK), close_unread)
    size = 100_000
    response = tunnel.ask("PUT /once HTTP/1.1", f"Content-Length: {size}", body=bytes(size))
    assert response.status == 502
    assert [request.path for request in tunnel.target.requests].count("/once") == 1


def test_a_target_that_closes_at_random_gets_nothing_too_often(any_tunnel: Tunnel) -> None:
    """What arrives is counted at the target, whatever the visitors were told."""
    chance = random.Random(20261122)

    async def moody(peer: Peer, request: Request) -> None:
        await peer.body(request)
        mood = chance.random()
        if mood < 0.15:
            peer.reset()
        elif mood < 0.3:
            peer.close()
        else:
            await peer.send(OK)
            if mood < 0.5:
                peer.close()  # while it idles, perhaps with the next request on its way

    any_tunnel.target.handler = moody
    asked: dict[str, int] = {}

    def ask(worker: int) -> None:
        for number in range(60):
            method = ("GET", "POST", "PUT")[number % 3]
            path = f"/{method}-{worker}-{number}"
            body = b"" if method == "GET" else b"body"
            fields = [] if method == "GET" else ["Content-Length: 4"]
            asked[path] = any_tunnel.ask(f"{method} {path} HTTP/1.1", *fields, body=body).status

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 240
    assert set(asked.values()) == {200, 502}
    arrived = Counter(request.path for request in any_tunnel.target.requests)
    for path, status in asked.items():
        assert arrived[path] <= (1 if path.startswith("/POST") else 2), path
        assert arrived[path] >= 1 or status == 502
    assert any_tunnel.pair.stats()["requests_retried"] > 0


def test_a_request_is_tried_again_once_and_no_more(tunnel: Tunnel) -> None:
    assert tunnel.ask().status == 200
    tunnel.target.handler = close_unread
    response = tunnel.ask("GET /again HTTP/1.1")
    assert (response.status, response.json()["error"]) == (502, "target_lost")
    assert [request.path for request in tunnel.target.requests].count("/again") == 2


def test_a_fresh_connection_that_is_closed_is_not_tried_again(tunnel: Tunnel) -> None:
    tunnel.target.handler = close_unread
    assert tunnel.ask().status == 502
    assert len(tunnel.target.requests) == 1


def test_a_request_with_half_an_answer_is_not_tried_again(tunnel: Tunnel) -> None:
    async def half(peer: Peer, request: Request) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        peer.close()

    assert tunnel.ask().status == 200
    tunnel.target.handler = first_then(reply(OK), half)
    assert tunnel.ask("GET /half HTTP/1.1").status == 502
    assert [request.path for request in tunnel.target.requests].count("/half") == 1


@pytest.mark.parametrize("close", ["HTTP/1.1 200 OK\r\nConnection: close", "HTTP/1.0 200 OK"])
def test_a_connection_that_the_target_wants_closed_is_not_used_again(
    tunnel: Tunnel, close: str
) -> None:
    tunnel.target.handler = reply(f"{close}\r\nContent-Length: 2\r\n\r\nok".encode())
    assert [tunnel.ask().status for _ in range(3)] == [200] * 3
    assert [len(peer.requests) for peer in tunnel.target.peers] == [1, 1, 1]


def test_visitors_at_once_have_a_connection_each(tunnel: Tunnel) -> None:
    together = asyncio.Barrier(5)

    async def hold(peer: Peer, request: Request) -> None:
        await together.wait()
        await peer.send(OK)

    tunnel.target.handler = hold
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(tunnel.ask().status)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert answers == [200] * 5
    assert [len(peer.requests) for peer in tunnel.target.peers] == [1] * 5


# --- a target out of step ---


@pytest.mark.parametrize("surplus", [b"surplus", ok(b"poison"), b"\r\n"])
def test_bytes_behind_a_response_never_reach_the_next_visitor(
    any_tunnel: Tunnel, surplus: bytes
) -> None:
    any_tunnel.target.handler = reply(OK + surplus)
    before = any_tunnel.pair.stats()["stream_surplus"]
    with any_tunnel.visitor() as visitor:
        for number in range(3):
            visitor.send(any_tunnel.head(f"GET /{number} HTTP/1.1"))
            response = visitor.response()
            assert (response.status, response.body) == (200, b"ok")
            assert visitor.buffer == b""
    assert [len(peer.requests) for peer in any_tunnel.target.peers] == [1] * 3
    assert any_tunnel.pair.stats()["stream_surplus"] == before + 3


def test_bytes_on_an_idle_connection_never_reach_the_next_visitor(any_tunnel: Tunnel) -> None:
    poison = any_tunnel.target.event()

    async def late(peer: Peer, request: Request) -> None:
        await peer.send(OK)
        await poison.wait()
        await peer.send(ok(b"poison"))
        await peer.wait_ended()

    before = any_tunnel.pair.stats()["stream_surplus"]
    any_tunnel.target.handler = late
    assert any_tunnel.ask().body == b"ok"
    any_tunnel.target.set_event(poison)
    wait_until(lambda: any_tunnel.pair.stats()["stream_surplus"] == before + 1)
    wait_until(lambda: any_tunnel.target.peers[0].ended)  # and is given up
    any_tunnel.target.handler = reply(OK)
    assert any_tunnel.ask().body == b"ok"
    assert len(any_tunnel.target.peers) == 2


def test_an_answer_to_head_with_a_body_is_surplus(tunnel: Tunnel) -> None:
    tunnel.target.handler = reply(OK)
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("HEAD / HTTP/1.1"))
        assert visitor.response("HEAD").status == 200
        tunnel.target.handler = reply(ok(b"clean"))
        visitor.send(tunnel.head())
        assert visitor.response().body == b"clean"


MALFORMED = {
    "no HTTP": b"hello there, this is not what you asked for\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "a long status": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "a low status": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "length and chunked": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "a space before a colon": b"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 0\r\n\r\n",
    "a head too large": b"HTTP/1.1 200 OK\r\n" + b"X-A: %b\r\n" % (b"x" * 4000) * 9 + b"\r\n",
    "a 101 nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_response_is_502_and_nothing_of_it_is_shown(tunnel: Tunnel, name: str) -> None:
    tunnel.target.handler = reply(MALFORMED[name])
    before = tunnel.pair.stats()["bad_responses"]
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head())
        response = visitor.response()
        assert (response.status, response.json()["error"]) == (502, "bad_response")
        tunnel.target.handler = reply(OK)
        visitor.send(tunnel.head())  # the visitor is not to blame: it goes on
        assert visitor.response().body == b"ok"
    tunnel.pair.expect_row(response.id, status=502, reason="bad_response")
    assert tunnel.pair.stats()["bad_responses"] == before + 1
    assert [len(peer.requests) for peer in tunnel.target.peers] == [1, 1]


def test_an_upgrade_field_alone_asks_for_nothing(tunnel: Tunnel) -> None:
    tunnel.target.handler = reply(MALFORMED["a 101 nobody asked for"] + b"\x81\x02hi")
    response = tunnel.ask("GET / HTTP/1.1", "Upgrade: websocket")  # no Connection: upgrade
    assert (response.status, response.json()["error"]) == (502, "bad_response")
