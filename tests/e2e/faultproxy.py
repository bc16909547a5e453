"""A TCP proxy that ill-treats the link between agent and server, on command.

    agent --> FaultProxy --> server

It runs in a thread of its own; what a test sets takes effect for the next bytes:

    cut()      both ends see an end of file
    reset()    both ends see a reset
    stall()    half-open: both connections stay, nothing moves; resume() lets it go on
    refuse     new connections are closed at once
    delay      seconds that each piece is on its way, as on a long line: it holds nothing back
    rate       bytes a second in each direction, at most; 0: as fast as it goes
    buffer     with a rate: seconds' worth of bytes that are taken in ahead, as by a router
    pieces     bytes in, pieces out: one_byte(), random_pieces(seed), or whole()

Nothing here is random but random_pieces(), and that is seeded: a failure can be repeated.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from tests.e2e.processes import TIMEOUT

READ_SIZE = 64 * 1024
# On its way at most, each direction: far more than any window, so that nothing but the
# rate limits what passes.
ON_THE_WAY_MAX = 64 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Pieces = Callable[[bytes], Iterator[bytes]]


def whole() -> Pieces:
    def cut(data: bytes) -> Iterator[bytes]:
        yield data

    return cut


def one_byte() -> Pieces:
    def cut(data: bytes) -> Iterator[bytes]:
        for index in range(len(data)):
            yield data[index : index + 1]

    return cut


def random_pieces(seed: int, largest: int = 1500) -> Pieces:
    """Sizes from 1 to `largest`, small ones more often: frames break at every place."""
    dice = random.Random(seed)

    def cut(data: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(data):
            size = int(largest ** dice.random())
            yield data[start : start + size]
            start += size

    return cut


class _Pair:
    """One proxied connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.tasks: list[asyncio.Task[None]] = []

    def close(self, *, reset: bool = False) -> None:
        for task in self.tasks:
            task.cancel()
        for end in self.sockets:
            if end.fileno() < 0:
                continue
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            else:
                # A close with bytes unread would send a reset: say FIN first.
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_WR)
            end.close()


class _Line:
    """One direction: pieces in order, each with the time when it arrives."""

    def __init__(self) -> None:
        self.pieces: collections.deque[tuple[float, bytes]] = collections.deque()
        self.size = 0
        self.arrival = 0.0  # of the last piece
        self.ended = False
        self.changed = asyncio.Event()

    def put(self, piece: bytes, delay: float, rate: float) -> None:
        now = time.monotonic()
        # A rate is kept over all pieces, not between each two: timers are coarse.
        start = max(now, self.arrival - delay)
        self.arrival = start + delay + (len(piece) / rate if rate else 0.0)
        self.pieces.append((self.arrival, piece))
        self.size += len(piece)
        self.changed.set()

    def take(self) -> bytes:
        _, piece = self.pieces.popleft()
        self.size -= len(piece)
        self.changed.set()
        return piece

    async def wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()


class FaultProxy:
    """`with FaultProxy(server_port) as link:`, then give agents link.url."""

    def __init__(self, target_port: int, *, receive_buffer: int = 0) -> None:
        self.target_port = target_port
        self.refuse = False
        self.delay = 0.0
        self.rate = 0.0
        self.buffer = 0.5
        self.pieces: Pieces = whole()
        self.accepted = 0
        self.bytes_moved = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        if receive_buffer:  # of each connection; else the kernel's choice, up to megabytes
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._pairs: list[_Pair] = []
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._stop.set)
        self._thread.join(TIMEOUT)

    # From the test's thread

    def cut(self) -> None:
        self._call(lambda: self._close_all(reset=False))

    def reset(self) -> None:
        self._call(lambda: self._close_all(reset=True))

    def reset_one(self, peer: str) -> None:
        """Reset the connection that the target sees as coming from this "ip:port"."""

        def run() -> None:
            for pair in self._pairs:
                host, port = pair.sockets[1].getsockname()
                if f"{host}:{port}" == peer:
                    pair.close(reset=True)
                    self._pairs.remove(pair)
                    return
            raise AssertionError(f"no connection from {peer}")

        self._call(run)

    def stall(self) -> None:
        self._call(self._flows.clear)

    def resume(self) -> None:
        self._call(self._flows.set)

    def _call(self, what: Callable[[], Any]) -> None:
        """Run on the loop, and be done when it is done."""
        done = threading.Event()

        def run() -> None:
            try:
                what()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(TIMEOUT), "the fault proxy hangs"

    # On the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        accepting = asyncio.create_task(self._accept())
        await self._stop.wait()
        accepting.cancel()
        self._close_all(reset=False)
        self._listener.close()
        await asyncio.gather(accepting, return_exceptions=True)

    def _close_all(self, *, reset: bool) -> None:
        for pair in self._pairs:
            pair.close(reset=reset)
        self._pairs.clear()

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.accepted += 1
            if self.refuse:
                client.close()
                continue
            server = socket.socket()
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, ("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                server.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            for source, sink in ((client, server), (server, client)):
                line = _Line()
                pair.tasks += [
                    asyncio.create_task(self._fill(pair, source, line)),
                    asyncio.create_task(self._drain(pair, line, sink)),
                ]
            self._pairs.append(pair)

    async def _fill(self, pair: _Pair, source: socket.socket, line: _Line) -> None:
        try:
            while True:
                await self._flows.wait()
                most = self.rate * self.buffer if self.rate else ON_THE_WAY_MAX
                while line.size > most:
                    await line.wait()
                data = await self._loop.sock_recv(source, READ_SIZE)
                if not data:
                    line.ended = True
                    line.changed.set()
                    return
                for piece in self.pieces(data):
                    line.put(piece, self.delay, self.rate)
        except OSError:
            # One end broke: the other learns of it the same way.
            pair.close(reset=True)

    async def _drain(self, pair: _Pair, line: _Line, sink: socket.socket) -> None:
        try:
            while True:
                while not line.pieces and not line.ended:
                    await line.wait()
                # What came in just as it stalled must wait as well.
                await self._flows.wait()
                if not line.pieces:
                    sink.shutdown(socket.SHUT_WR)
                    return
                early = line.pieces[0][0] - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
                    continue
                piece = line.take()
                await self._loop.sock_sendall(sink, piece)
                self.bytes_moved += len(piece)
        except OSError:
            pair.close(reset=True)
