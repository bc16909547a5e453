"""What end-to-end tests are made of: a pair of server and agent, a target that records every
byte it gets, and a visitor that speaks raw bytes.

    Visitor --bytes--> server <==link== agent --bytes--> RecordingTarget

Every test takes a tunnel of its own from a pair (Pair.tunnel()), all of them lead to the one
target. Streams are pooled by tunnel, so no test meets a connection that another one left.
Nothing here sleeps for a fixed time: wait_until() asks again until a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from proxy_engine import storage
from proxy_engine.storage.sqlite import SqliteStore, database_path
from tests.e2e.processes import TIMEOUT, Process

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CARRIERS = ("ws", "tcp")  # --transport
TUNNELS = 120  # of one pair: t0, t1, ...
POLL_INTERVAL = 0.01  # seconds between two looks at a condition
ROWS_AT_ONCE = 5000  # of the request log

T = TypeVar("T")
Fields = list[tuple[str, str]]


def wait_until(what: Callable[[], T], timeout: float = TIMEOUT) -> T:
    """The first true value of what()."""
    deadline = time.monotonic() + timeout
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"not seen within {timeout} s; last: {found!r}")
        time.sleep(POLL_INTERVAL)


def parse_fields(head: bytes) -> Fields:
    """The field lines of a head, in order, names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return [(name.lower(), value.strip()) for name, _, value in pairs]


def values(fields: Fields, name: str) -> list[str]:
    return [value for key, value in fields if key == name]


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """A chunked body."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return body + b"0\r\n" + trailers + b"\r\n"


def ok(body: bytes = b"ok", *fields: str) -> bytes:
    """A 200 with this body and these further field lines."""
    lines = "".join(f"{line}\r\n" for line in fields).encode("latin-1")
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


# --- the target -----------------------------------------------------------------------------


@dataclass
class Request:
    """One request as the target got it; `body` is filled by Peer.body()."""

    peer: Peer
    head: bytes
    method: str
    path: str
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    body_read: bool = False

    def values(self, name: str) -> list[str]:
        return values(self.fields, name)


class Gone(Exception):
    """The other side closed before what was asked for was complete."""


class Peer:
    """One connection at the target; `received` is every byte that came in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._used = 0  # of received
        self.received = bytearray()
        self.requests: list[Request] = []
        self.ended = False  # the agent finished writing, or is gone

    async def _more(self) -> None:
        try:
            data = await self._reader.read(65536)
        except OSError:
            data = b""
        if not data:
            self.ended = True
            raise Gone
        self.received += data

    async def read_exactly(self, size: int) -> bytes:
        while len(self.received) - self._used < size:
            await self._more()
        self._used += size
        return bytes(self.received[self._used - size : self._used])

    async def read_until(self, mark: bytes) -> bytes:
        while True:
            end = self.received.find(mark, self._used)
            if end >= 0:
                return await self.read_exactly(end + len(mark) - self._used)
            await self._more()

    async def read_some(self) -> bytes:
        """What is there, at least one byte."""
        if self._used == len(self.received):
            await self._more()
        return await self.read_exactly(len(self.received) - self._used)

    async def read_head(self) -> Request:
        head = await self.read_until(b"\r\n\r\n")
        method, path, _ = head.decode("latin-1").split(" ", 2)
        request = Request(self, head, method, path, parse_fields(head))
        self.requests.append(request)
        return request

    async def body(self, request: Request) -> bytes:
        """Read the request's body, decoded."""
        if request.body_read:
            return request.body
        if request.values("transfer-encoding") == ["chunked"]:
            while True:
                size = int((await self.read_until(b"\r\n")).split(b";")[0], 16)
                if size == 0:
                    break
                request.body += await self.read_exactly(size)
                assert await self.read_exactly(2) == b"\r\n"
            lines = b""
            while not lines.endswith(b"\r\n\r\n") and lines != b"\r\n":
                lines += await self.read_until(b"\r\n")
            request.trailers = parse_fields(b"\r\n" + lines)
        else:
            for length in request.values("content-length"):
                request.body = await self.read_exactly(int(length))
        request.body_read = True
        return request.body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def wait_ended(self) -> None:
        """Until the agent finished writing; what else it writes is recorded."""
        with contextlib.suppress(Gone):
            while True:
                await self._more()

    def finish(self) -> None:
        """Send FIN, go on reading."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Send RST."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Handler = Callable[[Peer, Request], Awaitable[None]]


def reply(*responses: bytes) -> Handler:
    """Read each request whole, answer with the next of these bytes; the last one repeats."""
    count = 0

    async def handler(peer: Peer, request: Request) -> None:
        nonlocal count
        await peer.body(request)
        count += 1
        await peer.send(responses[min(count, len(responses)) - 1])

    return handler


class RecordingTarget:
    """A TCP server in a thread of its own; every request goes to `handler`."""

    def __init__(self) -> None:
        self.handler: Handler = reply(OK)
        self.peers: list[Peer] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self.call(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the target's loop from a test."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    def event(self) -> asyncio.Event:
        """One that handlers wait for; a test sets it with set_event()."""
        return asyncio.Event()

    def set_event(self, event: asyncio.Event) -> None:
        self.soon(event.set)

    def soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call it on the target's loop."""
        self._loop.call_soon_threadsafe(callback, *args)

    def restart(self) -> None:
        """Forget what was recorded, answer 200 again."""
        self.peers = []
        self.handler = reply(OK)

    @property
    def requests(self) -> list[Request]:
        return [request for peer in list(self.peers) for request in list(peer.requests)]

    @property
    def received(self) -> bytes:
        """Everything, connection after connection."""
        return b"".join(bytes(peer.received) for peer in list(self.peers))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                request = await peer.read_head()
                await self.handler(peer, request)
        except (Gone, OSError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()


# --- the visitor ------------------------------------------------------------------------------


class Truncated(AssertionError):
    """The connection ended before a response was complete."""

    def __init__(self, so_far: bytes, was_reset: bool) -> None:
        super().__init__(f"{'reset' if was_reset else 'closed'} after {len(so_far)} bytes")
        self.so_far = so_far
        self.was_reset = was_reset


@dataclass
class Response:
    status: int
    head: bytes
    fields: Fields
    body: bytes = b""
    raw_body: bytes = b""
    trailers: Fields = field(default_factory=list)
    interim: list[Response] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        return values(self.fields, name)

    @property
    def id(self) -> str:
        [value] = self.values("x-request-id")
        return value

    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """A client connection that says what it likes and parses what it gets by the book."""

    def __init__(self, port: int, timeout: float = TIMEOUT) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            raise Truncated(self.buffer, was_reset=True) from None
        if not data:
            raise Truncated(self.buffer, was_reset=False)
        self.buffer += data

    def _gather(self, size: int) -> None:
        """Until so much is there; joined once, for a large body comes in thousands of parts."""
        parts = [self.buffer]
        missing = size - len(self.buffer)
        try:
            while missing > 0:
                self.buffer = b""
                self._more()
                parts.append(self.buffer)
                missing -= len(self.buffer)
        except Truncated as error:
            raise Truncated(b"".join(parts), error.was_reset) from None
        finally:
            self.buffer = b"".join(parts)

    def take(self, size: int) -> bytes:
        if len(self.buffer) < size:
            self._gather(size)
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def take_until(self, mark: bytes) -> bytes:
        while (end := self.buffer.find(mark)) < 0:
            self._more()
        return self.take(end + len(mark))

    def head(self) -> Response:
        """The next response head, interim or final."""
        head = self.take_until(b"\r\n\r\n")
        version, status = head[:12].split(b" ")
        assert version == b"HTTP/1.1", head
        return Response(int(status), head, parse_fields(head))

    def response(self, method: str = "GET") -> Response:
        """One whole final response with the interim ones before it. Raises Truncated."""
        interim: list[Response] = []
        while (found := self.head()).status < 200 and found.status != 101:
            interim.append(found)
        found.interim = interim
        if found.status == 101:
            return found
        coding, length = found.values("transfer-encoding"), found.values("content-length")
        assert not (coding and length) and len(length) <= 1, found.head
        if method == "HEAD" or found.status in (204, 304):
            return found
        if coding:
            assert coding == ["chunked"], found.head
            self._chunked(found)
        elif length:
            found.body = found.raw_body = self.take(int(length[0]))
        else:
            found.body = found.raw_body = self.rest()
        return found

    def _chunked(self, response: Response) -> None:
        while True:
            line = self.take_until(b"\r\n")
            response.raw_body += line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            data = self.take(size + 2)
            assert data.endswith(b"\r\n"), data
            response.body += data[:-2]
            response.raw_body += data
        lines = self.take_until(b"\r\n")
        while not lines.endswith(b"\r\n\r\n") and lines != b"\r\n":
            lines += self.take_until(b"\r\n")
        response.raw_body += lines
        response.trailers = parse_fields(b"\r\n" + lines)

    def rest(self) -> bytes:
        """Everything up to a clean end. Raises Truncated for a reset."""
        while True:
            try:
                self._more()
            except Truncated as error:
                if error.was_reset:
                    raise
                rest, self.buffer = self.buffer, b""
                return rest

    def is_closed(self) -> bool:
        """Whether the proxy closes without another byte; waits for it."""
        try:
            return self.rest() == b""
        except Truncated:
            return self.buffer == b""


# --- server and agent ------------------------------------------------------------------------


def options(engine: dict[str, int]) -> list[str]:
    return [word for name, value in engine.items() for word in ("--engine", f"{name}={value}")]


class Pair:
    """A server and, once connect() was called, an agent. Ports are free ones.

    Args:
        data_dir: the server's; made by it.
        engine: engine options of both.
        server_args: further flags for `run`.
    """

    def __init__(
        self, data_dir: Path, *, engine: dict[str, int] | None = None,
        server_args: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.data_dir = data_dir
        self.engine = engine or {}
        self._taken = 0
        self._expected: list[tuple[str, dict[str, Any]]] = []
        self.server = Process(
            "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir",
            str(data_dir), "--log-format", "json", *options(self.engine), *server_args,
        )  # fmt: skip
        ready = self.server.log("listening")
        self.port = int(ready["listen"].rpartition(":")[2])
        self.admin_port = int(ready["admin"].rpartition(":")[2])
        first = self.server.printed("first_run")
        self.admin_token: str = first["admin_token"]
        self.device_token: str = first["device_token"]
        self.agent: Process | None = None

    def connect(
        self,
        targets: dict[str, int],
        *args: str,
        transport: str = "ws",
        server_port: int | None = None,
        token: str = "",
    ) -> Process:
        """Start an agent for {tunnel: port} and wait until its tunnels are registered.

        Args:
            server_port: where it finds the server, when something stands in between.
        """
        words = [f"--http={name}=127.0.0.1:{port}" for name, port in targets.items()]
        self.agent = Process(
            "connect", "--server", f"http://127.0.0.1:{server_port or self.port}",
            "--transport", transport, "--log-format", "json", *words,
            *options(self.engine), *args, PROXY_ENGINE_TOKEN=token or self.device_token,
        )  # fmt: skip
        self.agent.printed("connected")
        return self.agent

    def connect_all(self, port: int, *args: str, transport: str = "ws") -> None:
        """... with TUNNELS tunnels, all to this port, for tunnel().

        One link: its pool of connections is one, and whoever comes in on another worker moves.
        """
        names = [f"t{number}" for number in range(TUNNELS)]
        self.connect(dict.fromkeys(names, port), "--links", "1", *args, transport=transport)

    def tunnel(self) -> str:
        """The name of a tunnel that nobody used yet."""
        assert self.has_tunnel
        self._taken += 1
        return f"t{self._taken - 1}"

    @property
    def has_tunnel(self) -> bool:
        return self._taken < TUNNELS

    def visitor(self) -> Visitor:
        return Visitor(self.port)

    def get(self, name: str, path: str = "/", *fields: str) -> Response:
        """A GET on a connection of its own."""
        with self.visitor() as visitor:
            lines = "".join(f"{line}\r\n" for line in fields)
            visitor.send(
                f"GET {path} HTTP/1.1\r\nHost: {name}.localhost\r\n{lines}\r\n".encode("latin-1")
            )
            return visitor.response()

    def api(self, path: str) -> Any:
        client = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=TIMEOUT)
        try:
            client.request("GET", path, headers={"Authorization": f"Bearer {self.admin_token}"})
            response = client.getresponse()
            assert response.status == 200
            return json.loads(response.read())
        finally:
            client.close()

    def stats(self) -> dict[str, int]:
        """The server engine's counters."""
        found = self.api("/api/v1/stats")
        assert isinstance(found, dict)
        return found

    def rows(self, **where: Any) -> list[dict[str, Any]]:
        """Rows of the request log, oldest first, as the store has them now."""
        found = [
            {name: getattr(item, name) for name in item.__struct_fields__}
            for item in asyncio.run(self._stored())
        ]
        return [row for row in found if where.items() <= row.items()]

    async def _stored(self) -> list[storage.Request]:
        store = await SqliteStore.open(database_path(self.data_dir), create=False)
        try:
            found: list[storage.Request] = []
            # Piece by piece: a store gives up on what takes it seconds.
            while more := await store.requests_after(found[-1].id if found else 0, ROWS_AT_ONCE):
                found += more
            return found
        finally:
            await store.close()

    def wait_rows(self, count: int = 1, **where: Any) -> list[dict[str, Any]]:
        """... once there are `count`; more are an error."""
        wait_until(lambda: len(self.rows(**where)) >= count)
        found = self.rows(**where)
        assert len(found) == count, found
        return found

    def row(self, request_id: str) -> dict[str, Any]:
        [row] = self.wait_rows(request_id=request_id)
        return row

    def expect_row(self, request_id: str, **fields: Any) -> None:
        """Its record must have these values; looked at when all tests are done.

        Records are written five times a second: hundreds of tests that each wait for
        theirs would take minutes.
        """
        self._expected.append((request_id, fields))

    def check_rows(self) -> None:
        for request_id, fields in self._expected:
            row = self.row(request_id)
            found = {name: row[name] for name in fields}
            assert found == fields, f"record of {request_id}: {found}, not {fields}"

    def settled(self) -> dict[str, int]:
        """The counters once no request is under way: every accepted one has an outcome."""

        def look() -> dict[str, int] | None:
            now = self.stats()
            outcomes = now["responses"] + now["responses_local"] + now["requests_aborted"]
            # A link asked for is counted as a request too; its outcome is the control plane's.
            return now if outcomes + now["auth_asked"] == now["requests"] else None

        found = wait_until(look)
        assert found is not None
        return found

    def close(self) -> None:
        for process in (self.agent, self.server):
            if process is not None:
                process.end()


@dataclass(frozen=True)
class Tunnel:
    """What most tests use: a tunnel of a pair, and the target behind it."""

    pair: Pair
    target: RecordingTarget
    name: str

    @property
    def host(self) -> bytes:
        return f"{self.name}.localhost".encode()

    def visitor(self) -> Visitor:
        return self.pair.visitor()

    def head(self, line: str = "GET / HTTP/1.1", *fields: str) -> bytes:
        """A request head for this tunnel."""
        lines = [line, f"Host: {self.name}.localhost", *fields, "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def ask(self, line: str = "GET / HTTP/1.1", *fields: str, body: bytes = b"") -> Response:
        """One request on a connection of its own."""
        with self.visitor() as visitor:
            visitor.send(self.head(line, *fields) + body)
            return visitor.response(line.split(" ")[0])
