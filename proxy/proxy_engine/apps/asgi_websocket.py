"""WebSockets of ASGI applications, on aiohttp's."""

from __future__ import annotations

from aiohttp import WSCloseCode, WSMsgType, web

from proxy_engine import logs
from proxy_engine.apps.lifespan import Message, Scope

MESSAGE_MAX = 16 << 20  # bytes of one message: uvicorn's and daphne's default

_log = logs.get("apps")


def is_websocket(request: web.BaseRequest) -> bool:
    return (
        request.headers.get("Upgrade", "").strip().lower() == "websocket"
        and "upgrade" in request.headers.get("Connection", "").lower()
    )


class WebSocketExchange:
    """One WebSocket: asked for, accepted or not, and closed."""

    def __init__(self, request: web.BaseRequest, scope: Scope) -> None:
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        scope["subprotocols"] = [name.strip() for name in offered.split(",") if name.strip()]
        scope["extensions"] = {"websocket.http.response": {}}
        del scope["method"]
        self._request = request
        self._socket: web.WebSocketResponse | None = None
        self._denial: web.Response | None = None
        self._is_announced = False
        self.is_disconnected = False
        self.has_failed = False

    def disconnect(self) -> None:
        self.is_disconnected = True

    async def receive(self) -> Message:
        if not self._is_announced:
            self._is_announced = True
            return {"type": "websocket.connect"}
        socket = self._socket
        if socket is None:
            return {"type": "websocket.disconnect", "code": WSCloseCode.ABNORMAL_CLOSURE}
        message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            return {"type": "websocket.receive", "text": message.data}
        if message.type is WSMsgType.BINARY:
            return {"type": "websocket.receive", "bytes": message.data}
        self.is_disconnected = True
        code = socket.close_code or WSCloseCode.ABNORMAL_CLOSURE
        reason = message.extra if message.type is WSMsgType.CLOSE else ""
        return {"type": "websocket.disconnect", "code": int(code), "reason": reason or ""}

    async def send(self, message: Message) -> None:
        kind, socket = message["type"], self._socket
        if self.is_disconnected and kind != "websocket.close":
            raise ConnectionResetError("the visitor is gone")
        if kind == "websocket.accept" and socket is None and self._denial is None:
            await self._accept(message)
        elif kind == "websocket.send" and socket is not None:
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                await socket.send_str(message["text"])
        elif kind == "websocket.close":
            if socket is None:
                self._denial = self._denial or web.Response(status=403)
            else:
                reason = (message.get("reason") or "").encode()
                await socket.close(code=message.get("code", 1000), message=reason)
        elif kind == "websocket.http.response.start" and socket is None and self._denial is None:
            self._denial = web.Response(status=message["status"], body=b"")
            for name, value in message.get("headers", ()):
                if name.lower() not in (b"content-length", b"transfer-encoding"):
                    self._denial.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        elif kind == "websocket.http.response.body" and self._denial is not None:
            body = self._denial.body
            assert isinstance(body, bytes)
            self._denial.body = body + message.get("body", b"")
        else:
            raise RuntimeError(f'"{kind}" is not expected here')

    async def _accept(self, message: Message) -> None:
        chosen = message.get("subprotocol")
        socket = web.WebSocketResponse(
            protocols=(chosen,) if chosen else (), max_msg_size=MESSAGE_MAX
        )
        for name, value in message.get("headers", ()):
            socket.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        await socket.prepare(self._request)
        self._socket = socket

    async def finish(self) -> web.StreamResponse:
        """When the application has returned."""
        if self._socket is not None:
            if not self._socket.closed:
                failed = WSCloseCode.INTERNAL_ERROR if self.has_failed else WSCloseCode.OK
                await self._socket.close(code=failed)
            return self._socket
        if self._denial is not None:
            return self._denial
        if not self.has_failed:
            _log.error("an application gave no complete answer", path=self._request.path)
        return web.Response(status=500, text="Internal Server Error")
