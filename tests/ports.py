"""Ports for tests that have to know one before anybody listens on it."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

# Below what Linux gives to those who ask for any port, or connect: nobody is given one of these
# between the choice and its use, or while who listens there is restarted.
CHOICE = range(10_000, 20_000)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    while True:
        port = random.choice(CHOICE)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses every connection."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])
