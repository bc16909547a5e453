"""Ports that tests give to programs by number."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

# Below those that the kernel gives to whoever asks for any, and connects from.
PORTS = range(12_000, 20_000)


def free_port() -> int:
    """A port that nobody has now, for TCP and UDP, and that nobody will be given by chance."""
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses every connection, and that nobody else is given."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])
