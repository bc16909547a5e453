"""Real requests through the tunnel. Each check says what it saw, or raises CheckFailed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp

from proxy_engine.demo.service import PAGE

ECHO_BYTES = 1024 * 1024
TIMEOUT = 10.0  # seconds a check may take


class CheckFailed(Exception):
    pass


class Result(NamedTuple):
    name: str
    passed: bool
    seconds: float
    text: str


class Visitor:
    """A client of the public side; `host` is the tunnel's public name."""

    def __init__(self, session: aiohttp.ClientSession, base: str, host: str) -> None:
        self._session = session
        self._base = base
        self._headers = {"Host": host}

    async def page(self) -> str:
        async with self._session.get(self._base + "/", headers=self._headers) as response:
            text = await response.text()
            _expect(response.status == 200, f"status {response.status}")
            _expect(text == PAGE, "another page came back")
            return f"{len(text)} bytes"

    async def echo(self) -> str:
        sent = os.urandom(ECHO_BYTES)
        async with self._session.post(
            self._base + "/echo", data=sent, headers=self._headers
        ) as response:
            got = await response.read()
            _expect(response.status == 200, f"status {response.status}")
        same = hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        _expect(same, f"{len(got)} bytes came back, and not the same")
        return f"1 MiB there and back, SHA-256 {hashlib.sha256(got).hexdigest()[:12]}"

    async def events(self) -> str:
        start = time.perf_counter()
        async with self._session.get(self._base + "/events", headers=self._headers) as response:
            _expect(response.status == 200, f"status {response.status}")
            line = await response.content.readline()
            _expect(line == b"data: 1\n", f"{line!r} came back")
            return f"first event after {(time.perf_counter() - start) * 1000:.1f} ms"

    async def websocket(self) -> str:
        async with self._session.ws_connect(self._base + "/ws", headers=self._headers) as socket:
            for message in ("hello", "ö" * 1000):
                await socket.send_str(message)
                _expect(await socket.receive_str() == message, "another text came back")
            start = time.perf_counter()
            await socket.send_bytes(b"x" * 64)
            _expect(await socket.receive_bytes() == b"x" * 64, "other bytes came back")
            return f"echo of 64 bytes in {(time.perf_counter() - start) * 1000:.2f} ms"

    async def unknown(self) -> str:
        headers = {"Host": "nobody." + self._headers["Host"].partition(".")[2]}
        async with self._session.get(self._base + "/", headers=headers) as response:
            _expect(response.status == 404, f"status {response.status}")
            return "404, as it should be"


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)


async def run_checks(base: str, host: str) -> list[Result]:
    results = []
    async with aiohttp.ClientSession() as session:
        visitor = Visitor(session, base, host)
        checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("GET a page", visitor.page),
            ("POST 1 MiB, echoed", visitor.echo),
            ("Server-sent events", visitor.events),
            ("WebSocket echo", visitor.websocket),
            ("A name nobody has", visitor.unknown),
        ]
        for name, check in checks:
            start = time.perf_counter()
            try:
                async with asyncio.timeout(TIMEOUT):
                    text, passed = await check(), True
            except TimeoutError:
                text, passed = f"no answer in {TIMEOUT:.0f} s", False
            except (CheckFailed, aiohttp.ClientError, OSError, TypeError) as error:
                # TypeError: aiohttp's receive_str() got a message of another kind
                text, passed = f"{error}" or type(error).__name__, False
            results.append(Result(name, passed, time.perf_counter() - start, text))
    return results
