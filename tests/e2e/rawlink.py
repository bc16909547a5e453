"""A link spoken by hand: the handshake, then whatever bytes a test likes.

Only what a misbehaving device needs; the real one is the agent.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.e2e.processes import TIMEOUT

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream: int, length: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + payload


def record(value: Any) -> bytes:
    """A control record: its length and its JSON; bytes are taken as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(data)) + data


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    length: int
    payload: bytes


class RawLink:
    """A device without manners. Raises ConnectionError when it is refused."""

    def __init__(
        self, port: int, token: str, *, agent: bool = True, instance: str = "raw",
        number: int | None = 1,
    ) -> None:  # fmt: skip
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        fields = [
            "GET /_proxy/link HTTP/1.1",
            "Host: server",
            f"Authorization: Bearer {token}",
            "Connection: Upgrade",
            "Upgrade: proxy-engine-yamux",
        ]
        if agent:
            fields += ["Proxy-Engine-Version: 1", f"Proxy-Engine-Instance: {instance}"]
        if agent and number is not None:
            fields.append(f"Proxy-Engine-Link: {number}")
        self.socket.sendall(("\r\n".join(fields) + "\r\n\r\n").encode())
        self._input = b""
        while b"\r\n\r\n" not in self._input:
            self._input += self._receive()
        self.head, _, self._input = self._input.partition(b"\r\n\r\n")
        if not self.head.startswith(b"HTTP/1.1 101 "):
            body = b"".join(iter(self._receive, b""))
            self.close()
            raise ConnectionError((self.head + self._input + body).decode("latin-1"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def open_control(self, *records: Any) -> None:
        """Stream 1, with these records on it."""
        data = b"".join(record(each) for each in records)
        self.send(frame(DATA, SYN, 1, len(data), data))

    def register(self, *tunnels: str) -> dict[str, Any]:
        """Register tunnels and wait for the answer."""
        specs = [{"name": name, "kind": "http"} for name in tunnels]
        self.open_control({"type": "register", "tunnels": specs})
        return next(self.records())

    def records(self) -> Iterator[dict[str, Any]]:
        """Control records as they come, to the end of the link."""
        data = b""
        for each in self.frames():
            if each.kind == DATA and each.stream == 1:
                data += each.payload
            while len(data) >= 4 and len(data) >= 4 + struct.unpack(">I", data[:4])[0]:
                size = struct.unpack(">I", data[:4])[0]
                yield json.loads(data[4 : 4 + size])
                data = data[4 + size :]

    def frames(self) -> Iterator[Frame]:
        """Frames as they come; ends with the link."""
        while True:
            head = self._take(12)
            if len(head) < 12:
                return
            _, kind, flags, stream, length = struct.unpack(">BBHII", head)
            payload = self._take(length) if kind == DATA else b""
            yield Frame(kind, flags, stream, length, payload)

    def ended(self) -> list[Frame]:
        """Wait for the end; what came until then."""
        return list(self.frames())

    def _take(self, size: int) -> bytes:
        while len(self._input) < size:
            try:
                data = self._receive()
            except ConnectionResetError:
                data = b""
            if not data:
                data, self._input = self._input, b""
                return data
            self._input += data
        data, self._input = self._input[:size], self._input[size:]
        return data

    def _receive(self) -> bytes:
        return self.socket.recv(64 * 1024)
