"""WebSocket pass-through: after the 101 the proxy is a byte tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close

from tests.e2e.harness import CARRIERS, Pair, Peer, Request, Tunnel, ok, wait_until
from tests.e2e.processes import TIMEOUT

pytestmark = pytest.mark.sanitized

SIZES = [0, 1, 125, 126, 1000, 65_535, 65_536, 1 << 20, 16 << 20]
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
ASK = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip

Serve = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(scope="module", params=CARRIERS)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pair, socket.socket]]:
    """A pair with the tunnel `ws`, and the listening socket that it leads to."""
    pair = Pair(tmp_path_factory.mktemp("websocket") / "data")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pair.connect({"ws": listener.getsockname()[1]}, transport=request.param)
        yield pair, listener
    pair.close()


Through = Callable[..., contextlib.AbstractAsyncContextManager[ClientConnection]]


@pytest.fixture
def through(place: tuple[Pair, socket.socket]) -> Through:
    """through(handler): a client, through a tunnel, of a websockets server."""
    pair, listener = place

    @contextlib.asynccontextmanager
    async def begin(handler: Serve, **options: Any) -> AsyncIterator[ClientConnection]:
        url = f"ws://ws.localhost:{pair.port}/chat"
        subprotocols = options.get("subprotocols")
        async with (
            serve(handler, sock=listener.dup(), max_size=None, open_timeout=TIMEOUT, **options),
            connect(
                url, host="127.0.0.1", port=pair.port, max_size=None, proxy=None,
                subprotocols=subprotocols, open_timeout=TIMEOUT,
            ) as client,
        ):  # fmt: skip
            yield client

    return begin


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_messages_of_every_size_come_back(through: Through) -> None:
    async with through(echo) as client:
        for size in SIZES:
            message = os.urandom(size)
            await client.send(message)
            assert await client.recv() == message
        await client.send("text ✓")
        assert await client.recv() == "text ✓"
        # Many at once, both ways full.
        messages = [os.urandom(size) for size in (1, 70_000, 300_000) for _ in range(10)]
        sender = asyncio.create_task(send_all(client, messages))
        assert [await client.recv() for _ in messages] == messages
        await sender


async def send_all(client: ClientConnection, messages: list[bytes]) -> None:
    for message in messages:
        await client.send(message)


async def test_pings_are_answered_by_the_other_end(through: Through) -> None:
    pinged: list[float] = []

    async def pings_too(connection: ServerConnection) -> None:
        pinged.append(await (await connection.ping(b"from the target")))
        await connection.send("done")
        await connection.wait_closed()

    async with through(pings_too, ping_interval=None) as client:
        for payload in (b"", b"x" * 125):
            await asyncio.wait_for(await client.ping(payload), TIMEOUT)
        assert await client.recv() == "done"
    assert len(pinged) == 1


async def test_close_codes_of_the_target_reach_the_visitor(through: Through) -> None:
    async def leave(connection: ServerConnection) -> None:
        await connection.close(4001, "enough")

    async with through(leave) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd == Close(4001, "enough")
        assert closed.value.rcvd_then_sent


async def test_close_codes_of_the_visitor_reach_the_target(through: Through) -> None:
    seen: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()

    async def watch(connection: ServerConnection) -> None:
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            seen.set_result(closed.rcvd)

    async with through(watch) as client:
        await client.close(4002, "bye")
        assert await asyncio.wait_for(seen, TIMEOUT) == Close(4002, "bye")
        assert client.close_code == 4002


async def test_subprotocols_are_agreed_end_to_end(through: Through) -> None:
    async with through(echo, subprotocols=["chat", "other"]) as client:
        assert client.subprotocol == "chat"


async def test_a_target_may_refuse_the_upgrade(through: Through) -> None:
    def refuse(connection: ServerConnection, request: object) -> object:
        return connection.respond(403, "not you")

    with pytest.raises(InvalidStatus) as refused:
        async with through(echo, process_request=refuse):
            pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"not you"


# --- byte for byte ---


def test_a_101_arrives_with_exactly_these_bytes(any_tunnel: Tunnel) -> None:
    async def switch(peer: Peer, request: Request) -> None:
        await peer.send(SWITCH + b"first")
        assert await peer.read_exactly(6) == b"second"
        await peer.send(b"third")
        await peer.wait_ended()
        await peer.send(b"last")  # the visitor finished, we did not
        peer.finish()

    any_tunnel.target.handler = switch
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("GET /chat HTTP/1.1", *ASK, "X-Request-Id: 9"))
        assert visitor.head().head == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"X-Request-Id: 9\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert visitor.take(5) == b"first"
        visitor.send(b"second")
        assert visitor.take(5) == b"third"
        visitor.finish()
        assert visitor.rest() == b"last"
    row = any_tunnel.pair.wait_rows(path="/chat", host=any_tunnel.host.decode())[0]
    assert (row["status"], row["reason"]) == (101, "")
    assert row["flags"] & 8  # a tunnel


def test_bytes_sent_early_wait_for_the_101(any_tunnel: Tunnel) -> None:
    release = any_tunnel.target.event()

    async def switch(peer: Peer, request: Request) -> None:
        await release.wait()
        await peer.send(SWITCH)
        await peer.send(await peer.read_exactly(5))

    any_tunnel.target.handler = switch
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("GET /chat HTTP/1.1", *ASK) + b"early")
        wait_until(lambda: any_tunnel.target.requests)
        # Nothing but the head: were the upgrade refused, these would be a request.
        assert any_tunnel.target.received.endswith(b"\r\n\r\n")
        any_tunnel.target.set_event(release)
        assert visitor.head().status == 101
        assert visitor.take(5) == b"early"


def test_bytes_sent_early_are_the_next_request_when_the_upgrade_is_refused(
    tunnel: Tunnel,
) -> None:
    async def refuse(peer: Peer, request: Request) -> None:
        await peer.send(ok(request.path.encode()))

    tunnel.target.handler = refuse
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("GET /1 HTTP/1.1", *ASK) + tunnel.head("GET /2 HTTP/1.1"))
        assert [visitor.response().body for _ in range(2)] == [b"/1", b"/2"]


@pytest.mark.parametrize("who", ["visitor", "target"])
def test_a_reset_of_one_end_ends_the_other(any_tunnel: Tunnel, who: str) -> None:
    reset = any_tunnel.target.event()

    async def switch(peer: Peer, request: Request) -> None:
        await peer.send(SWITCH)
        if who == "target":
            await reset.wait()
            peer.reset()
        else:
            await peer.wait_ended()

    any_tunnel.target.handler = switch
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("GET /chat HTTP/1.1", *ASK))
        assert visitor.head().status == 101
        if who == "target":
            any_tunnel.target.set_event(reset)
            assert visitor.is_closed()
        else:
            visitor.reset()
            wait_until(lambda: any_tunnel.target.peers[0].ended)
    [row] = any_tunnel.pair.wait_rows(host=any_tunnel.host.decode())
    assert row["reason"] == ("target_lost" if who == "target" else "visitor_gone")


def test_a_silent_tunnel_is_closed_in_the_end(tunnel_with: Callable[..., Tunnel]) -> None:
    tunnel = tunnel_with(tunnel_timeout_ms=200)

    async def switch(peer: Peer, request: Request) -> None:
        await peer.send(SWITCH)
        await peer.wait_ended()

    tunnel.target.handler = switch
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("GET /chat HTTP/1.1", *ASK))
        assert visitor.head().status == 101
        assert visitor.is_closed()
    [row] = tunnel.pair.wait_rows(host=tunnel.host.decode())
    assert (row["status"], row["reason"]) == (101, "tunnel_timeout")
