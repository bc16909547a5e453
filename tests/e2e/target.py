"""The service behind the tunnel, with every manner good and bad.

In a thread of the test (`with Target() as target:`), where the test can look at what
arrived; or as a process of its own (`TargetProcess`), where bulk does not compete with the
test for the interpreter.

    GET  /kib            1 KiB
    GET  /bulk?n=N       N bytes of a repeating block, announced by Content-Length
    GET  /chunked?n=N    the same, chunked
    ANY  /sink           reads the body, answers {"size": ..., "sha256": ...}
    ANY  /echo           the body back
    GET  /slow           answers when the test says so
    GET  /endless        chunks for ever, until the other side goes
    GET  /reset?n=N      announces 1 MiB, sends N bytes, resets the connection; with &held=1
                         when the test says so
    GET  /close?n=N      ... closes it properly
    GET  /hang           never answers
    GET  /until-close?n=N  N bytes, ended by closing the connection
    GET  /trickle?n=N    N bytes, a little at a time
    GET  /events?n=N     N server-sent events, a little at a time
    GET  /upgrade        101, then every byte back until the other side finishes
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.e2e.processes import ENVIRON, ROOT, TIMEOUT

# No power of two: a block lost or doubled shifts all that comes behind it.
BLOCK = random.Random(20).randbytes((1 << 20) - 3)
LIMIT = 1 << 20
READ_SIZE = 64 * 1024
NOTSENT_LOWAT = 128 * 1024
TRICKLE_INTERVAL = 0.005  # seconds between two parts
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# The answer to "the sample nonce" of RFC 6455.
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def pattern_sha256(size: int) -> str:
    digest = hashlib.sha256()
    while size:
        part = BLOCK[:size]
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def event_of(number: int) -> bytes:
    return b"id: %d\ndata: event number %d\n\n" % (number, number)


class Target:
    """See above. Counters are written by the loop's thread and read by the test's."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[str] = []  # "METHOD path", as heads came in
        self.complete: list[str] = []  # ... with their whole bodies
        self.connections = 0  # open now
        self.entered = threading.Event()  # a /slow or /hang is waiting
        self.body_bytes = 0
        self._release = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)

    def release(self) -> None:
        """Let every /slow answer, and what is held break off, now and from now on."""
        self._loop.call_soon_threadsafe(self._release.set)

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, sock=self._listener, limit=LIMIT)
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # asyncio leaves it to us for a listener made elsewhere: without it a head and its
        # body are 40 ms apart.
        peer: socket.socket = writer.get_extra_info("socket")
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A thousand downloads that stall would else fill the kernel's memory for TCP from
        # here, 1.5 MiB each, and all of the machine's connections would suffer.
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._request(reader, writer):
                    pass
        finally:
            self.connections -= 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        url = urlsplit(target)
        query = parse_qs(url.query)
        size = int(query.get("n", ["0"])[0])
        self.requests.append(f"{method} {target}")
        body = _body(reader, fields)
        if url.path == "/sink":
            digest, total = hashlib.sha256(), 0
            async for part in body:
                digest.update(part)
                total += len(part)
                self.body_bytes += len(part)
            answer = json.dumps({"size": total, "sha256": digest.hexdigest()}).encode()
        elif url.path == "/echo":
            answer = b"".join([part async for part in body])
        else:
            async for _ in body:
                pass
            answer = target.encode()
        self.complete.append(f"{method} {target}")
        if url.path in ("/reset", "/close"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + BLOCK[:size])
            await writer.drain()
            if "held" in query:  # a reset may overtake what is in flight
                await self._release.wait()
            if url.path == "/reset":
                peer: socket.socket = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            return False
        if url.path == "/until-close":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + BLOCK[:size])
            await writer.drain()
            return False
        if url.path == "/upgrade":
            await _echo(reader, writer)
            return False
        if url.path in ("/trickle", "/events"):
            await _trickle(writer, url.path, size)
            return True
        if url.path in ("/bulk", "/chunked", "/endless"):
            await _stream(writer, url.path, size)
            return True
        if url.path in ("/slow", "/hang"):
            self.entered.set()
            if url.path == "/hang":
                await reader.read(1)
                return False
            await self._release.wait()
        elif url.path == "/kib":
            answer = BLOCK[:1024]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
        if method != "HEAD":
            writer.write(answer)
        await writer.drain()
        return True


async def _stream(writer: asyncio.StreamWriter, path: str, size: int) -> None:
    if path == "/bulk":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size or path == "/endless":
        part = BLOCK if path == "/endless" else BLOCK[:size]
        size -= min(size, len(part))
        if path == "/bulk":
            writer.write(part)
        else:
            writer.write(b"%x\r\n" % len(part) + part + b"\r\n")
        await writer.drain()
    if path == "/chunked":
        writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _trickle(writer: asyncio.StreamWriter, path: str, size: int) -> None:
    if path == "/trickle":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        parts = [BLOCK[start : min(size, start + 700)] for start in range(0, size, 700)]
    else:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        parts = [b"%x\r\n%b\r\n" % (len(event), event) for event in map(event_of, range(size))]
        parts.append(b"0\r\n\r\n")
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(TRICKLE_INTERVAL)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(SWITCH)
    while data := await reader.read(READ_SIZE):
        writer.write(data)
        await writer.drain()


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> AsyncIterator[bytes]:
    """Raises IncompleteReadError for one that was cut."""
    if fields.get("transfer-encoding") == "chunked":
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            part = await reader.readexactly(size + 2)
            if size == 0:
                return
            yield part[:-2]
    left = int(fields.get("content-length", "0"))
    while left:
        part = await reader.read(min(left, LIMIT))
        if not part:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(part)
        yield part


class TargetProcess:
    """A Target in a process of its own."""

    def __init__(self, port: int = 0) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.target", str(port)],
            env={**ENVIRON, "PYTHONPATH": f"{ROOT}:{ENVIRON['PYTHONPATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        self.port = int(self._popen.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


if __name__ == "__main__":
    alone = Target(int(sys.argv[1]))
    print(alone.port, flush=True)
    alone.run()
