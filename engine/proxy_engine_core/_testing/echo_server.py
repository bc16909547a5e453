"""A WebSocket echo server and client whose messages never meet Python: echo.pyx.

    PYTHONPATH=engine:proxy python -m proxy_engine_core._testing.echo_server --port 9001

The handshakes are done here, one after the other, with the functions everybody uses.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import threading

from proxy_engine_core._testing.echo import EchoWorker
from proxy_engine_core.http1.python import parse_request_head
from proxy_engine_core.websocket import (
    MAX_MESSAGE_SIZE,
    HandshakeError,
    accept_request,
    check_response,
    new_key,
    refusal,
    request,
)

HEAD_SIZE_MAX = 16 * 1024
HANDSHAKE_SECONDS = 5.0


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """(head with its empty line, what came behind it)."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(4096)
        if not piece or len(head) > HEAD_SIZE_MAX:
            raise ConnectionError("no whole head")
        head += piece
    end = head.index(b"\r\n\r\n") + 4
    return head[:end], head[end:]


def tune(connection: socket.socket) -> None:
    """As the engine tunes its own sockets."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


class EchoServer:
    """Listens on loopback from its first moment on; `port` says where."""

    def __init__(self, port: int = 0, *, deflate: bool = True) -> None:
        self._worker = EchoWorker(MAX_MESSAGE_SIZE)
        self._deflate = deflate
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._stopping = socket.socketpair()
        self._thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> EchoServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping[1].close()
        self._thread.join()
        self._stopping[0].close()
        self._listener.close()

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._stopping[0]], [], [])
            if self._stopping[0] in ready:
                return
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError, ValueError):
                self._handshake(connection)

    def _handshake(self, connection: socket.socket) -> None:
        connection.settimeout(HANDSHAKE_SECONDS)
        tune(connection)
        head, early = read_head(connection)
        try:
            agreed = accept_request(parse_request_head(head)[2], deflate=self._deflate)
        except HandshakeError as error:
            connection.sendall(refusal(error))
            return
        connection.sendall(agreed.response)
        window_bits = agreed.deflate.window_bits if agreed.deflate else 0
        self._worker.adopt(
            connection.detach(), is_client=False, window_bits=window_bits, early=early
        )


class EchoClient:
    """Connects, and sends back whatever the server sends."""

    def __init__(self) -> None:
        self._worker = EchoWorker(MAX_MESSAGE_SIZE)

    @property
    def closed(self) -> int:
        """Connections made and gone again."""
        return self._worker.closed

    def connect(self, port: int, target: str) -> None:
        key = new_key()
        with socket.create_connection(("127.0.0.1", port), HANDSHAKE_SECONDS) as connection:
            tune(connection)
            connection.sendall(request(f"127.0.0.1:{port}", target, key=key, deflate=True))
            head, early = read_head(connection)
            status = int(head.split(b" ", 2)[1])
            lines = (line.split(b":", 1) for line in head.split(b"\r\n")[1:-2])
            fields = [(name.decode().lower(), value) for name, value in lines]
            agreed = check_response(status, fields, key=key, deflate=True)
            window_bits = agreed.deflate.window_bits if agreed.deflate else 0
            self._worker.adopt(
                connection.detach(), is_client=True, window_bits=window_bits, early=early
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--no-deflate", action="store_true")
    arguments = parser.parse_args()
    server = EchoServer(arguments.port, deflate=not arguments.no_deflate)
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
