"""WebSocket echo servers to measure: python websocket_servers.py NAME PORT

Each as its own documentation shows it, on uvloop, without compression.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import uvloop

from proxy_engine_core.http1.python import parse_request_head
from proxy_engine_core.websocket import Binary, Connection, accept_request

HOST = "127.0.0.1"


class Echo(asyncio.Protocol):
    """The Python face of our codec, under a plain asyncio protocol."""

    transport: asyncio.Transport
    connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.connection is None:
            agreed = accept_request(parse_request_head(data)[2])
            self.transport.write(agreed.response)
            self.connection = Connection("server")
            return
        send = self.connection.send_binary
        for event in self.connection.receive(data):
            if isinstance(event, Binary):
                self.transport.write(send(event.data))
        if answer := self.connection.outgoing():
            self.transport.write(answer)


async def serve_proxy_engine(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, HOST, port)
    await server.serve_forever()


async def serve_picows(port: int) -> None:
    from picows import WSFrame, WSListener, WSTransport, WSUpgradeRequest, ws_create_server

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

    def listener(request: WSUpgradeRequest) -> WSListener:
        return Listener()

    server = await ws_create_server(listener, HOST, port)
    await server.serve_forever()


async def serve_aiohttp(port: int) -> None:
    from aiohttp import WSMsgType, web

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await asyncio.Event().wait()


async def serve_websockets(port: int) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(handler, HOST, port, compression=None) as server:
        await server.serve_forever()


SERVERS: dict[str, Callable[[int], Awaitable[None]]] = {
    "proxy-engine-python": serve_proxy_engine,
    "picows": serve_picows,
    "aiohttp": serve_aiohttp,
    "websockets": serve_websockets,
}


async def main() -> None:
    await SERVERS[sys.argv[1]](int(sys.argv[2]))


if __name__ == "__main__":
    uvloop.run(main())
