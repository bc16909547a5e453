"""Applications of this process as targets: aiohttp's and ASGI's."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from proxy_engine import Client, Server, TunnelError
from tests.library.visitor import TIMEOUT, Visitor

BIG = os.urandom(1 << 20)


def page() -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"hello {request.headers['X-Forwarded-For']}")

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response

    async def chat(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"you said {message.data}")
        return socket

    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError("this is what the application does")

    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/", hello)
    app.router.add_post("/echo", echo)
    app.router.add_get("/chat", chat)
    app.router.add_get("/broken", broken)
    return app


class Asgi:
    """An ASGI application that does everything, and remembers."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.seen: list[str] = []
        self.gone = asyncio.Event()
        self.is_slow = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "lifespan":
            return await self.lifespan(scope, receive, send)
        if scope["type"] == "websocket":
            return await self.chat(scope, receive, send)
        work = getattr(self, scope["path"].strip("/") or "hello")
        return await work(scope, receive, send)

    async def lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            self.seen.append(message["type"])
            if message["type"] == "lifespan.startup":
                scope["state"]["word"] = "hello"
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    @staticmethod
    async def start(send: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def hello(self, scope: Any, receive: Any, send: Any) -> None:
        body = scope["state"]["word"].encode()
        length = (b"Content-Length", str(len(body)).encode())
        await self.start(send, length, (b"x-two", b"1"), (b"x-two", b"2"))
        await send({"type": "http.response.body", "body": body})

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(send, (b"Transfer-Encoding", b"chunked"), (b"Connection", b"close"))
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async def slow(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(send, (b"content-type", b"text/event-stream"))
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        self.is_slow.set()
        await self.may_go_on.wait()
        await send({"type": "http.response.body", "body": b"second"})

    async def endless(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["more_body"] is False
        await self.start(send)
        gone = asyncio.create_task(receive())
        with pytest.raises(OSError):
            while True:  # to a visitor that has closed, who may have meant its half alone
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.sleep(0.01)
        assert (await gone)["type"] == "http.disconnect"
        self.gone.set()

    async def broken(self, scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("this is what the application does")

    async def broken_later(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(send, (b"content-length", b"10"))
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        raise RuntimeError("this is what the application does")

    async def silent(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    async def empty(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(send, status=204)
        await send({"type": "http.response.body"})

    async def twice(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(send)
        with pytest.raises(RuntimeError, match="not expected"):
            await self.start(send)
        await send({"type": "http.response.body", "body": b"once"})

    async def chat(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if scope["path"] == "/closed":
            return await send({"type": "websocket.close"})
        if scope["path"] == "/denied":
            head = {"status": 402, "headers": [(b"x-price", b"7")]}
            await send({"type": "websocket.http.response.start", **head})
            return await send({"type": "websocket.http.response.body", "body": b"pay"})
        offered = scope["subprotocols"]
        headers = [(b"x-hello", b"yes")]
        chosen = {"subprotocol": offered[0] if offered else None, "headers": headers}
        await send({"type": "websocket.accept", **chosen})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.seen.append(f"disconnect {message['code']} {message['reason']}")
                self.gone.set()
                return None
            if message.get("text") == "bye":
                return await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
            if message.get("text") == "fail":
                raise RuntimeError("this is what the application does")
            if message.get("bytes"):
                await send({"type": "websocket.send", "bytes": message["bytes"][::-1]})
            else:
                await send({"type": "websocket.send", "text": f"you said {message['text']}"})


@pytest.fixture
async def client(server: Server, token: str) -> Any:
    async with Client(server.url, token=token) as client:
        yield client


async def test_an_aiohttp_application_without_a_port(
    client: Client, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = await client.http("web", page())
    folder = Path(tunnel.target.removeprefix("unix:")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (await visitor.ask("web")).body == b"hello 127.0.0.1"
    answer = await visitor.ask("web", "/echo", "POST", data=BIG)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(BIG).digest()
    headers = {"Host": "web.localhost"}
    async with visitor.session.ws_connect(visitor.url("/chat"), headers=headers) as socket:
        await socket.send_str("hi")
        assert (await socket.receive_str()) == "you said hi"
    with caplog.at_level(logging.CRITICAL, "aiohttp.server"):
        assert (await visitor.ask("web", "/broken")).status == 500
    await tunnel.close()
    assert not folder.exists()


@pytest.fixture
async def asgi(client: Client) -> Asgi:
    app = Asgi()
    await client.http("web", app)
    return app


async def test_what_an_asgi_application_is_told(asgi: Asgi, visitor: Visitor) -> None:
    headers = {"X-Mixed-Case": "Yes", "Host": f"web.localhost:{visitor.port}"}
    answer = await visitor.ask("web", "/hello%2F?q=%20a&b", headers=headers)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers.getall("x-two") == ["1", "2"]
    scope = asgi.scopes[-1]
    assert (scope["type"], scope["method"], scope["http_version"]) == ("http", "GET", "1.1")
    assert (scope["path"], scope["query_string"]) == ("/hello/", b"q=%20a&b")
    assert scope["raw_path"] == b"/hello%2F"
    assert (scope["scheme"], scope["client"]) == ("http", ("127.0.0.1", 0))
    assert scope["server"] == ("web.localhost", visitor.port)
    assert (b"x-mixed-case", b"Yes") in scope["headers"]
    assert scope["state"] == {"word": "hello"}


async def test_bodies_of_an_asgi_application(asgi: Asgi, visitor: Visitor) -> None:
    answer = await visitor.ask("web", "/echo", "POST", data=BIG)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(BIG).digest()

    async def chunks() -> Any:
        for _ in range(20):
            yield b"chunk"

    assert (await visitor.ask("web", "/echo", "POST", data=chunks())).body == b"chunk" * 20
    head = await visitor.ask("web", "/", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5")
    assert (await visitor.ask("web", "/empty")).status == 204
    assert (await visitor.ask("web", "/twice")).body == b"once"
    for _ in range(3):
        assert (await visitor.ask("web", "/")).body == b"hello"


async def test_a_response_streams(asgi: Asgi, visitor: Visitor) -> None:
    headers = {"Host": "web.localhost"}
    async with visitor.session.get(visitor.url("/slow"), headers=headers) as response:
        assert await response.content.readany() == b"first"
        asgi.may_go_on.set()
        assert await response.read() == b"second"


async def test_an_application_learns_that_its_visitor_is_gone(asgi: Asgi, visitor: Visitor) -> None:
    async with aiohttp.ClientSession(headers={"Host": "web.localhost"}) as session:
        response = await session.get(visitor.url("/endless"))
        assert await response.content.readany() == b"x"
    async with asyncio.timeout(TIMEOUT):
        await asgi.gone.wait()


async def test_an_application_that_raises(
    asgi: Asgi, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await visitor.ask("web", "/broken")).status == 500
    assert "an application failed" in caplog.text
    with pytest.raises(aiohttp.ClientPayloadError):
        await visitor.ask("web", "/broken_later")
    assert (await visitor.ask("web", "/silent")).status == 500
    assert "no complete answer" in caplog.text
    assert (await visitor.ask("web", "/")).status == 200


async def test_websockets_of_an_asgi_application(asgi: Asgi, visitor: Visitor) -> None:
    options: Any = {"headers": {"Host": "web.localhost"}, "protocols": ["a", "b"]}
    async with visitor.session.ws_connect(visitor.url("/chat"), **options) as socket:
        assert socket.protocol == "a"
        assert socket._response.headers["x-hello"] == "yes"
        await socket.send_str("hi")
        assert await socket.receive_str() == "you said hi"
        await socket.send_bytes(BIG)
        assert await socket.receive_bytes() == BIG[::-1]
        await socket.send_str("bye")
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 4000
    assert asgi.scopes[-1]["scheme"] == "ws"
    assert "method" not in asgi.scopes[-1]
    async with visitor.session.ws_connect(visitor.url("/chat"), **options) as socket:
        await socket.close(code=4001, message=b"enough")
    async with asyncio.timeout(TIMEOUT):
        await asgi.gone.wait()
    assert "disconnect 4001 enough" in asgi.seen
    async with visitor.session.ws_connect(visitor.url("/chat"), **options) as socket:
        await socket.send_str("fail")
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1011


async def test_websockets_that_are_not_accepted(asgi: Asgi, visitor: Visitor) -> None:
    for path, status in (("/closed", 403), ("/denied", 402)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await visitor.session.ws_connect(visitor.url(path), headers={"Host": "web.localhost"})
        assert caught.value.status == status
    assert caught.value.headers is not None
    assert caught.value.headers["x-price"] == "7"


async def test_the_lifespan_of_an_asgi_application(client: Client) -> None:
    app = Asgi()
    tunnel = await client.http("web", app)
    assert app.seen == ["lifespan.startup"]
    await tunnel.close()
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"]

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(TunnelError, match="no database") as caught:
        await client.http("web", fails)
    assert caught.value.reason == "app_failed"
    assert client.tunnels == {}


async def test_an_application_without_a_lifespan(client: Client, visitor: Visitor) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await Asgi.start(send)
        await send({"type": "http.response.body", "body": b"short"})

    await client.http("web", app)
    assert (await visitor.ask("web")).body == b"short"


async def test_requests_under_way_finish_when_the_client_ends(
    server: Server, token: str, visitor: Visitor
) -> None:
    app = Asgi()
    async with Client(server.url, token=token) as client:
        await client.http("web", app)
        asking = asyncio.create_task(visitor.ask("web", "/slow"))
        await app.is_slow.wait()
        asyncio.get_running_loop().call_later(0.2, app.may_go_on.set)
    assert (await asking).body == b"firstsecond"
    assert app.seen[-1] == "lifespan.shutdown"
