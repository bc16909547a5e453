"""A small web service to put behind the tunnel: a page, an echo, events, a WebSocket."""

from __future__ import annotations

import asyncio

from aiohttp import web

PAGE = """<!doctype html>
<title>proxy-engine demo</title>
<h1>It works.</h1>
<p>This page was served by a process behind a tunnel.
<p>Events: <span id="events">0</span>
<script>
new EventSource("/events").onmessage = (event) => {
  document.getElementById("events").textContent = event.data;
};
</script>
"""
EVENT_INTERVAL = 1.0  # seconds; the first one is sent at once
BODY_MAX = 64 * 1024 * 1024


async def page(request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def echo(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if request.content_length is not None:
        response.content_length = request.content_length
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    number = 0
    try:
        while True:
            number += 1
            await response.write(f"data: {number}\n\n".encode())
            await asyncio.sleep(EVENT_INTERVAL)
    except (ConnectionError, asyncio.CancelledError):
        return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is web.WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is web.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def start() -> tuple[web.AppRunner, int]:
    """Serve on a free port of 127.0.0.1."""
    app = web.Application(client_max_size=BODY_MAX)
    app.add_routes(
        [
            web.get("/", page),
            web.post("/echo", echo),
            web.get("/events", events),
            web.get("/ws", websocket),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]
    return runner, port
