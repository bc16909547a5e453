"""Who visits tunnels of a server on this machine."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Self

import aiohttp

TIMEOUT = 30.0  # seconds; far more than anything here takes


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Visitor:
    def __init__(self, port: int) -> None:
        self.port = port
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        self.session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def ask(self, name: str, path: str = "/", method: str = "GET", **options: Any) -> Answer:
        headers = {"Host": f"{name}.localhost", **options.pop("headers", {})}
        async with self.session.request(
            method, self.url(path), headers=headers, **options
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


class Echo:
    """A TCP service on the loopback that gives back what comes; for HTTP: "hello"."""

    def __init__(self, *, is_http: bool = True) -> None:
        self._is_http = is_http
        self._server: asyncio.Server

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
                writer.write(answer if self._is_http else data)
        except OSError:
            pass
        finally:
            writer.close()
