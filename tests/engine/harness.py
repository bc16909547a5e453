"""A server engine in this process, with every other party played by the test, byte by byte.

    Visitor (a socket)  ->  Engine("server")  ->  Device (a socket that speaks yamux frames)

Everything blocks with a deadline; nothing sleeps for a fixed time. The device's side has no
session of its own on purpose: a test decides about every frame, also about wrong ones.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

from proxy_engine_core import core
from proxy_engine_core.core import Engine

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
CANCEL, REFUSED, UNREACHABLE, TIMEOUT, UNKNOWN_TUNNEL, TARGET_LOST, PROTOCOL = range(7)
# How many workers the engines of these tests have, where a test does not say.
WORKERS = int(os.environ.get("PROXY_ENGINE_TEST_WORKERS", "1"))
PATIENCE = 10.0  # seconds; far more than anything here takes
WINDOW_SIZE = 256 * 1024
# Tests count credit to the byte; those about the growth of windows ask for it.
FIXED_WINDOWS = {"window_start": WINDOW_SIZE, "window_stream_max": WINDOW_SIZE}
Carrier = Literal["raw", "websocket"]
CARRIERS = ("raw", "websocket")


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    length: int
    payload: bytes = b""


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def frame(type_: int, flags: int, stream: int, length: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, type_, flags, stream, length) + payload


def wait_until(
    condition: Callable[[], Any], what: str = "condition", patience: float = PATIENCE
) -> Any:
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def ws_frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """A client's WebSocket frame; the key is fixed, so that inputs repeat."""
    first = opcode | (0x80 if final else 0)
    mask_bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", first, mask_bit | size)
    elif size < 65536:
        head = struct.pack(">BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack(">BBQ", first, mask_bit | 127, size)
    if not masked:
        return head + payload
    key = b"\x37\xfa\x21\x3d"
    return head + key + xor(payload, key)


def xor(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return mixed.to_bytes(size, "big")


class Wire:
    """A socket with a buffer of what came in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        if sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.is_finished = False
        self.reader: threading.Thread | None = None  # who reads it, if not the test

    def fill(self) -> bool:
        """Read once more; False at the end of the stream."""
        if not self.is_finished:
            data = self.sock.recv(262144)
            self.received += data
            self.is_finished = not data
        return not self.is_finished

    def take(self, size: int) -> bytes:
        while len(self.received) < size:
            assert self.fill(), f"ended {size - len(self.received)} bytes early: {self.received!r}"
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def take_head(self) -> bytes:
        while b"\r\n\r\n" not in self.received:
            assert self.fill(), f"ended in a head: {bytes(self.received)!r}"
        return self.take(self.received.index(b"\r\n\r\n") + 4)

    def is_readable(self, timeout: float) -> bool:
        if self.received:
            return True
        look = select.poll()  # select() takes no descriptor beyond 1023
        look.register(self.sock, select.POLLIN)
        return bool(look.poll(timeout * 1000))

    def rest(self) -> bytes:
        """Everything to the end of the stream; ConnectionError if it was reset."""
        while self.fill():
            pass
        return self.take(len(self.received))

    def is_cut_off(self) -> bool:
        """Wait for the end; True if it was a reset."""
        try:
            self.rest()
        except (ConnectionResetError, ssl.SSLEOFError):
            return True
        return False

    def close(self) -> None:
        self.sock.close()

    def unacknowledged(self) -> int:
        """Bytes that the other side's kernel has not confirmed."""
        size = fcntl.ioctl(self.sock, termios.TIOCOUTQ, b"\0\0\0\0")
        return int(struct.unpack("i", size)[0])

    def abort(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def acknowledged(wire: Wire) -> None:
    wait_until(lambda: wire.unacknowledged() == 0, "the other side's kernel to have it")


def wait_for_input(first: Wire, second: Wire) -> bool:
    """Wait until one of the two has something to read; True if it is the first."""
    if first.received:
        return True
    socks = [first.sock] if second.is_finished else [first.sock, second.sock]
    ready = select.select(socks, [], [], PATIENCE)[0]
    assert ready, "neither has anything to read"
    return first.sock in ready


class Response(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


def connect(
    port: int, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
) -> socket.socket:
    """A connection to the engine; over TLS it is to web.test, and an end must be announced."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    if tls is None:
        return sock
    sock.settimeout(PATIENCE)
    return tls.wrap_socket(sock, server_hostname="web.test", suppress_ragged_eofs=False)


class Visitor(Wire):
    def __init__(self, port: int, **how: Any) -> None:
        super().__init__(connect(port, **how))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, path: str = "/", *, fields: str = "", host: str = "web.test") -> None:
        self.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())

    def response(self, *, is_head: bool = False) -> Response:
        head = self.take_head().decode("latin-1").split("\r\n")
        fields = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        status = int(head[0].split()[1])
        if is_head or status in (204, 304) or status < 200:
            body = b""
        elif fields.get("transfer-encoding") == "chunked":
            body = self.chunked_body()
        elif "content-length" in fields:
            body = self.take(int(fields["content-length"]))
        else:
            body = self.rest()
        return Response(status, fields, body)

    def chunked_body(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self.received:
                assert self.fill(), "ended in a chunk"
            line = self.take(self.received.index(b"\r\n") + 2)
            size = int(line, 16)
            body += self.take(size)
            assert self.take(2) == b"\r\n"
            if size == 0:
                return body


class Device(Wire):
    """The far end of a link: frames in, frames out, over either carrier."""

    def __init__(
        self, sock: socket.socket, carrier: str, preamble: bool, *, is_server: bool = False
    ) -> None:
        super().__init__(sock)
        self.carrier = carrier
        self.is_server = is_server  # we play the server, the engine is the agent
        self.has_preamble = preamble
        self.link = 0
        self.frames = bytearray()  # yamux bytes unwrapped from the carrier
        self.held: list[Frame] = []  # read while waiting for something else
        self.control: list[tuple[int, bytes]] = []  # WebSocket control frames

    # --- out

    def wrap(self, data: bytes) -> bytes:
        return data if self.carrier == "raw" else ws_frame(2, data, masked=not self.is_server)

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, *frames: bytes) -> None:
        self.send_raw(self.wrap(b"".join(frames)))

    def data(self, stream: int, payload: bytes, flags: int = 0) -> None:
        self.send(frame(DATA, flags, stream, len(payload), payload))

    def accept(self, stream: int) -> None:
        self.send(frame(WINDOW, ACK, stream))

    def fin(self, stream: int) -> None:
        self.send(frame(DATA, FIN, stream))

    def reset(self, stream: int, code: int = TARGET_LOST) -> None:
        self.send(frame(WINDOW, RST, stream, code))

    def grant(self, stream: int, size: int) -> None:
        self.send(frame(WINDOW, 0, stream, size))

    def open_control(self) -> None:
        self.send(frame(WINDOW, SYN, 1))
        assert self.next(1) == Frame(WINDOW, ACK, 1, 0)

    # --- in

    def unwrap(self) -> None:
        """Move what came in from the carrier to self.frames."""
        if self.carrier == "raw":
            self.frames += self.received
            self.received.clear()
            return
        while len(self.received) >= 2:
            opcode, size, start = self.received[0] & 15, self.received[1] & 127, 2
            assert self.received[0] & 0x80, "the engine fragments nothing"
            is_masked = bool(self.received[1] & 0x80)
            assert is_masked == self.is_server, "a client masks, a server does not"
            if size == 126:
                start = 4
            elif size == 127:
                start = 10
            if len(self.received) < start:
                return
            if start > 2:
                size = int.from_bytes(self.received[2:start], "big")
            start += 4 if is_masked else 0
            if len(self.received) < start + size:
                return
            payload = bytes(self.received[start : start + size])
            if is_masked:
                payload = xor(payload, bytes(self.received[start - 4 : start]))
            del self.received[: start + size]
            if opcode == 2:
                self.frames += payload
            else:
                self.control.append((opcode, payload))

    def parse(self) -> Frame | None:
        self.unwrap()
        if len(self.frames) < 12:
            return None
        version, type_, flags, stream, length = struct.unpack(">BBHII", self.frames[:12])
        assert version == 0
        end = 12 + (length if type_ == DATA and not flags & RST else 0)
        if len(self.frames) < end:
            return None
        payload = bytes(self.frames[12:end])
        del self.frames[:end]
        return Frame(type_, flags, stream, length, payload)

    def read(self) -> Frame | None:
        """The next frame; None: the link was closed. Pings are answered on the way."""
        while True:
            found = self.parse()
            if found is None:
                try:
                    if not self.fill():
                        return None
                except ConnectionResetError:
                    return None
            elif found.type == PING and found.flags & SYN:
                with suppress(OSError):  # closed behind its last ping
                    self.send(frame(PING, ACK, 0, found.length))
            else:
                return found

    def pump(self) -> None:
        """Read once and hold what has come; it may have been pings only, or part of a frame."""
        self.fill()
        while (found := self.parse()) is not None:
            if found.type == PING and found.flags & SYN:
                self.send(frame(PING, ACK, 0, found.length))
            else:
                self.held.append(found)

    def next(self, stream: int | None = None, type_: int | None = None) -> Frame:
        """The next frame of a stream and type; others are held for later."""

        def fits(found: Frame) -> bool:
            return (stream is None or found.stream == stream) and type_ in (None, found.type)

        for index, found in enumerate(self.held):
            if fits(found):
                return self.held.pop(index)
        while True:
            read = self.read()
            assert read is not None, "the link was closed"
            if fits(read):
                return read
            self.held.append(read)

    def opened(self) -> int:
        """Wait for the next stream the server opens."""
        for index, found in enumerate(self.held):
            if found.flags & SYN and found.type == WINDOW:
                self.held.pop(index)
                return found.stream
        while True:
            read = self.read()
            assert read is not None, "the link was closed"
            if read.flags & SYN and read.type == WINDOW:
                return read.stream
            self.held.append(read)

    def request(self, *, stream: int | None = None, accept: bool = True) -> tuple[int, bytes]:
        """Wait for a request: (stream, all bytes to the end of its head)."""
        is_new = stream is None
        if stream is None:
            stream = self.opened()
            if accept:
                self.accept(stream)
        head = b""
        while b"\r\n\r\n" not in head[12 if is_new and self.has_preamble else 0 :]:
            head += self.next(stream, DATA).payload
        if is_new and self.has_preamble:
            assert head.startswith(b"\r\n\r\n\x00\r\nQUIT\n")
            head = head[16 + int.from_bytes(head[14:16], "big") :]
        return stream, head

    def closed(self) -> bool:
        """Wait for the end of the link."""
        while self.read() is not None:
            pass
        return True


class Running:
    """An engine with its events, and the wires a test has to it."""

    is_listening = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events: list[Any] = []
        self.wires: list[Wire] = []

    def stop(self) -> None:
        self.engine.stop()
        for wire in self.wires:
            if wire.reader is not None:
                wire.reader.join(PATIENCE)  # or it might read from who gets the descriptor next
            wire.close()

    def event(self, kind: int) -> Any:
        """Wait for the next event of a kind; others are kept."""

        def find() -> Any:
            self.events += self.engine.poll()
            for index, event in enumerate(self.events):
                if event[0] == kind:
                    return self.events.pop(index)
            return None

        return wait_until(find, f"event {kind}")

    def has_event(self, kind: int) -> bool:
        self.events += self.engine.poll()
        return any(event[0] == kind for event in self.events)

    def stat(self, name: str) -> int:
        return self.engine.stats()[name]

    def connections(self) -> int:
        """Open connections, the listeners of a server apart."""
        return self.stat("connections") - (self.engine.workers if self.is_listening else 0)

    def wait_stat(self, name: str, value: int) -> None:
        wait_until(lambda: self.stat(name) >= value, f"{name} {value}")


class Server(Running):
    is_listening = True

    def __init__(
        self,
        workers: int = WORKERS,
        trusted: tuple[str, ...] = (),
        /,
        *,
        tls: core.TlsServer | None = None,
        client: ssl.SSLContext | None = None,
        **options: int,
    ) -> None:
        """With `tls` its listener speaks that, and `client` is how visitors and devices do."""
        options = {**FIXED_WINDOWS, **options}
        super().__init__(Engine("server", workers=workers, **options))
        for network in trusted:
            self.engine.trust(network)
        self.client = client
        self.port = self.engine.listen("127.0.0.1", 0, tls=tls)
        self.engine.start()
        self.logs: list[Any] = []
        self.route_count = 0
        self.asked: Any = None  # EVENT_AUTH of the last knock()

    def visitor(self, **how: Any) -> Visitor:
        visitor = Visitor(self.port, **{"tls": self.client, **how})
        self.wires.append(visitor)
        return visitor

    def log(self) -> Any:
        """Wait for the next request record."""

        def find() -> bool:
            self.logs += self.engine.poll_logs()
            return bool(self.logs)

        wait_until(find, "a request record")
        return self.logs.pop(0)

    def knock(self, carrier: str = "raw", early: bytes = b"") -> tuple[socket.socket, int]:
        """A connection that has asked for a link: (socket, ticket)."""
        sock = connect(self.port, tls=self.client)
        upgrade = "websocket" if carrier == "websocket" else "proxy-engine-yamux"
        sock.sendall(
            f"GET /_proxy/link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            f"Upgrade: {upgrade}\r\n\r\n".encode()
            + early
        )
        self.asked = self.event(core.EVENT_AUTH)
        return sock, self.asked[1]

    def device(
        self,
        carrier: Carrier = "raw",
        *,
        preamble: bool = True,
        window: int = WINDOW_SIZE,
        streams_max: int = 500,
        early: bytes = b"",
        device: int = 7,
        tunnel: str | None = "web",
        worker: int = -1,
        direct: int = 0,
        quota: int = 0,
        limits: tuple[int, int, int] = (0, 0, 0),
    ) -> Device:
        sock, ticket = self.knock(carrier, early)
        upgrade = "websocket" if carrier == "websocket" else "proxy-engine-yamux"
        answer = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {upgrade}\r\n\r\n"
        self.engine.auth_reply(
            ticket, answer.encode(), accept=True, device=device, carrier=carrier,
            window=window, streams_max=streams_max, preamble=preamble, worker=worker,
            quota=quota, limits=limits, direct=direct,
        )  # fmt: skip
        made = Device(sock, carrier, preamble)
        self.wires.append(made)
        assert made.take_head().decode() == answer
        made.link = self.event(core.EVENT_LINK_UP)[1]
        if tunnel is not None:
            self.route(tunnel, made)
        return made

    def routes(self, operations: list[Any]) -> None:
        """Apply them, and wait until every worker has."""
        self.engine.routes_apply(operations)
        self.settle()

    def settle(self) -> None:
        """Wait until every worker has read what was posted to it so far."""

        def turns() -> list[int]:
            stats = map(self.engine.worker_stats, range(self.engine.workers))
            return [worker["turns"] for worker in stats]

        before = turns()

        def is_past() -> bool:
            self.engine.link_loads()  # something to wake for
            # The turn that was under way may have been past its mailbox; the one behind was not.
            return all(now >= then + 2 for now, then in zip(turns(), before, strict=True))

        wait_until(is_past, "a turn of every worker")

    def route(self, tunnel: str, *devices: Device) -> None:
        self.route_count += 1
        links = [device.link for device in devices]
        self.engine.routes_apply(
            [
                ("set", f"host:{tunnel}.test", self.route_count, links, tunnel),
                ("set", f"name:{tunnel}", self.route_count, links, tunnel),
            ]
        )


@contextmanager
def serving(
    workers: int = WORKERS, trusted: tuple[str, ...] = (), /, **options: Any
) -> Iterator[Server]:
    """A running server; at the end nothing may be lent out of its buffers any more."""
    server = Server(workers, trusted, **options)
    try:
        yield server
    finally:
        server.stop()
    assert server.stat("buffer_bytes") == 0
    assert server.stat("connections") == 0


class Agent(Running):
    """An agent engine; the test plays the server it dials and the targets it connects to."""

    def __init__(self, workers: int = WORKERS, **options: int) -> None:
        options = {**FIXED_WINDOWS, **options}
        super().__init__(Engine("agent", workers=workers, **options))
        self.engine.start()
        self.listener = self.listen()
        self.targets: list[socket.socket] = []

    def stop(self) -> None:
        super().stop()
        for sock in (self.listener, *self.targets):
            sock.close()

    @staticmethod
    def listen() -> socket.socket:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        return sock

    def target(self, name: str = "web") -> socket.socket:
        """A listening target, the only one of the table."""
        sock = self.listen()
        self.targets.append(sock)
        self.engine.targets_apply([(name, "127.0.0.1", sock.getsockname()[1])])
        return sock

    def accept(self, listener: socket.socket) -> Wire:
        wire = Wire(listener.accept()[0])
        self.wires.append(wire)
        return wire

    def dial(self, carrier: Carrier = "raw", timeout_ms: int = 10_000) -> tuple[int, Wire]:
        """(dial id, the server's end before its answer)."""
        port = self.listener.getsockname()[1]
        request = b"GET /_proxy/link HTTP/1.1\r\nHost: x\r\n\r\n"
        dial = self.engine.dial("127.0.0.1", port, request, carrier=carrier, timeout_ms=timeout_ms)
        wire = self.accept(self.listener)
        assert wire.take_head() == request
        return dial, wire

    def link(
        self, carrier: Carrier = "raw", *, window: int = WINDOW_SIZE, early: bytes = b""
    ) -> Device:
        dial, wire = self.dial(carrier)
        made = Device(wire.sock, carrier, True, is_server=True)
        answer = f"HTTP/1.1 101 S\r\nProxy-Engine-Window: {window}\r\n\r\n".encode()
        made.send_raw(answer + early)
        up = self.event(core.EVENT_LINK_UP)
        assert up[1] == dial
        assert up[4] == answer
        made.link = dial
        assert made.next(1) == Frame(WINDOW, SYN, 1, 0)
        made.accept(1)
        return made


@contextmanager
def dialling(workers: int = WORKERS, **options: int) -> Iterator[Agent]:
    """A running agent; at the end nothing may be lent out of its buffers any more."""
    agent = Agent(workers, **options)
    try:
        yield agent
    finally:
        agent.stop()
    assert agent.stat("buffer_bytes") == 0
    assert agent.stat("connections") == 0


OK_HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
