"""A visitor that asks for much and reads nothing until told to."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable

from tests.e2e.harness import Pair, wait_until
from tests.e2e.processes import TIMEOUT

RECEIVE_BUFFER = 4096  # what the kernel holds is no concern of ours: as little as it allows
WINDOW = 1 << 20
QUIET = 1.0  # seconds; on a busy machine what moves may stand still for a good part of one


class SlowReader:
    def __init__(self, port: int, size: int, *fields: str, host: str = "web.localhost") -> None:
        self.size = size
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", port))
        lines = "".join(f"{line}\r\n" for line in fields)
        self.socket.sendall(f"GET /bulk?n={size} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())

    def read_all(self) -> str:
        """The SHA-256 of the whole body."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(4096)
        body = data.partition(b"\r\n\r\n")[2]
        digest, left = hashlib.sha256(body), self.size - len(body)
        while left:
            data = self.socket.recv(min(left, 1 << 20))
            assert data, f"cut with {left} bytes missing"
            digest.update(data)
            left -= len(data)
        self.socket.close()
        return digest.hexdigest()


def no_longer_moving(pair: Pair, least: int) -> Callable[[], bool]:
    """Whether nothing came over the link for a while: slow readers' windows are full."""
    last, since = -1, 0.0

    def look() -> bool:
        nonlocal last, since
        now = pair.stats()["link_bytes_in"]
        if now != last:
            last, since = now, time.monotonic()
        return last >= least and time.monotonic() - since > QUIET

    return look


def owed_size(pair: Pair) -> int:
    """The size of an answer that ends in the server with about half a window still owed to a
    visitor who reads nothing: more than the kernel takes, less than that and a window."""
    before = pair.stats()["link_bytes_in"]
    probe = SlowReader(pair.port, 64 << 20)
    wait_until(no_longer_moving(pair, before + WINDOW))
    moved = pair.stats()["link_bytes_in"] - before
    probe.socket.close()
    wait_until(lambda: pair.stats()["requests_aborted"] == 1)
    return moved - WINDOW // 2
