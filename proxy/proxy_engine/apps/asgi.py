"""ASGI applications on aiohttp's HTTP server: one request, one call of the application.

    AsgiHandler     scope; the application's task; what becomes of its failures
    Exchange        receive() and send() of an HTTP request
    asgi_websocket  ... of a WebSocket

An application may outlive its request when the visitor goes: it learns of it by "http.disconnect"
and by the OSError of its next send(), and ends when it likes, at the latest with the tunnel.

Our own server is in front: it has checked the request's framing, and X-Forwarded-For and -Proto
are its word.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from proxy_engine import logs
from proxy_engine.apps.asgi_websocket import WebSocketExchange, is_websocket
from proxy_engine.apps.lifespan import ASGI, AsgiApp, Message, Scope

# Fields that belong to the connection, which is aiohttp's.
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})

_log = logs.get("apps")


class AsgiHandler:
    """Answers aiohttp's requests by an ASGI application."""

    def __init__(self, app: AsgiApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange: Exchange | WebSocketExchange
        scope = self._scope(request)
        if is_websocket(request):
            exchange = WebSocketExchange(request, scope)
        else:
            exchange = Exchange(request)
        task = asyncio.create_task(self._run(scope, exchange))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:  # the visitor is gone
            exchange.disconnect()
            raise
        return await exchange.finish()

    async def _run(self, scope: Scope, exchange: Exchange | WebSocketExchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if not exchange.is_disconnected:
                exchange.has_failed = True
                _log.exception("an application failed", error, path=scope["path"])

    def _scope(self, request: web.BaseRequest) -> Scope:
        raw_path, _, query = request.raw_path.partition("?")
        headers = [(name.lower(), value) for name, value in request.raw_headers]
        forwarded = request.headers.get("X-Forwarded-For", "")
        visitor = forwarded.partition(",")[0].strip()
        scheme = request.headers.get("X-Forwarded-Proto", "http")
        host, _, port = request.host.rpartition(":")
        is_https = scheme == "https"
        return {
            "type": "http",
            "asgi": ASGI,
            "http_version": f"{request.version.major}.{request.version.minor}",
            "method": request.method,
            "scheme": scheme,
            "path": unquote(raw_path),
            "raw_path": raw_path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": headers,
            "client": (visitor, 0) if visitor else None,
            "server": (host, int(port))
            if port.isdigit()
            else (request.host, 443 if is_https else 80),
            "state": self._state.copy(),
            "extensions": {},
        }


class Exchange:
    """One HTTP request and its response."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None
        self._has_body = request.method != "HEAD"
        self._is_read = False
        self._is_complete = False
        self._over = asyncio.Event()
        self.is_disconnected = False
        self.has_failed = False

    def disconnect(self) -> None:
        self.is_disconnected = True
        self._over.set()

    async def receive(self) -> Message:
        if not self._is_read and not self.is_disconnected:
            try:
                body = await self._request.content.readany()
            except Exception:  # cut short: aiohttp has a dozen names for it
                self.disconnect()
                return {"type": "http.disconnect"}
            self._is_read = self._request.content.at_eof()
            return {"type": "http.request", "body": body, "more_body": not self._is_read}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.is_disconnected:
            raise ConnectionResetError("the visitor is gone")
        kind = message["type"]
        if kind == "http.response.start" and self._response is None:
            self._response = _response(message)
            if self._response.status in (204, 304):
                self._has_body = False
        elif kind == "http.response.body" and self._response and not self._is_complete:
            await self._write(self._response, message)
        else:
            raise RuntimeError(f'"{kind}" is not expected here')

    async def _write(self, response: web.StreamResponse, message: Message) -> None:
        more = message.get("more_body", False)
        body = message.get("body", b"")
        if not response.prepared:
            await response.prepare(self._request)
        if body and self._has_body:
            await response.write(body)
        if not more:
            self._is_complete = True
            await response.write_eof()
            self._over.set()

    async def finish(self) -> web.StreamResponse:
        """When the application has returned."""
        self._over.set()
        if self._is_complete and self._response is not None:
            return self._response
        if not self.has_failed:
            _log.error("an application gave no complete answer", path=self._request.path)
        if self._response is not None and self._response.prepared:
            # What was sent must not look like all of it.
            if self._request.transport is not None:
                self._request.transport.abort()
            return self._response
        return web.Response(status=500, text="Internal Server Error")


def _response(message: Message) -> web.StreamResponse:
    response = web.StreamResponse(status=message["status"])
    for name, value in message.get("headers", ()):
        if name.lower() not in HOP_BY_HOP:
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
