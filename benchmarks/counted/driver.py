"""Requests through a server and an agent in one process, for callgrind to count.

    valgrind --tool=callgrind --separate-threads=yes python driver.py ORIGIN_PORT CARRIER WORK COUNT

WORK is `requests` (COUNT rounds on 16 connections), `single` (COUNT requests on one) or `bulk`
(COUNT downloads of 10 MB); COUNT 0 leaves what setting up costs, to be taken off.

Each engine has one worker, a thread of its own, so that what it executes is counted apart; this
thread plays the visitors, in lockstep: a request on each connection, then every response. That
makes what a turn finds nearly the same in every run, which the count then is, too.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import Literal

from proxy_engine_core.core import EVENT_AUTH, EVENT_LINK_UP, Engine

LINK_REQUEST = b"GET /_proxy/link HTTP/1.1\r\nHost: x\r\n\r\n"
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nProxy-Engine-Window: 262144\r\n\r\n"
REQUEST = (
    b"GET %s HTTP/1.1\r\nHost: web.localhost\r\nUser-Agent: counted\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip\r\n\r\n"
)
PATIENCE = 60.0  # seconds; valgrind runs one thread at a time, fifty times slower
WARM_UP = 20  # rounds
CONNECTIONS = 16


class Tunnel:
    """A server, an agent, and a link between them."""

    def __init__(self, origin: int, carrier: str) -> None:
        self.carrier: Literal["raw", "websocket"] = "websocket" if carrier == "websocket" else "raw"
        self.server, self.agent = Engine("server"), Engine("agent")
        self.port = self.server.listen("127.0.0.1", 0)
        self.server.start()
        self.agent.start()
        self.agent.targets_apply([("web", "127.0.0.1", origin)])
        self.agent.dial(
            "127.0.0.1", self.port, LINK_REQUEST,
            carrier=self.carrier,
        )  # fmt: skip
        link, deadline = 0, time.monotonic() + PATIENCE
        while not link:
            if time.monotonic() > deadline:
                sys.exit("the link did not come up")
            link = self._admit()
        self.server.routes_apply([("set", "default", 1, (link,), "web")])

    def _admit(self) -> int:
        link = 0
        self.agent.poll()
        for event in self.server.poll():
            if event[0] == EVENT_AUTH:
                self.server.auth_reply(
                    event[1], ACCEPTED, accept=True, preamble=True, carrier=self.carrier
                )
            elif event[0] == EVENT_LINK_UP:
                link = event[1]
        return link

    def visitors(self, count: int) -> list[socket.socket]:
        return [socket.create_connection(("127.0.0.1", self.port), PATIENCE) for _ in range(count)]

    def stop(self) -> None:
        self.agent.stop()
        self.server.stop()


def response(visitor: socket.socket) -> None:
    answer = visitor.recv(65536)
    if not answer.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"an answer that is not 200: {answer[:60]!r}")
    head, _, body = answer.partition(b"\r\n\r\n")
    at = head.lower().index(b"content-length:") + 15
    missing = int(head[at:].split(b"\r\n", 1)[0]) - len(body)
    while missing > 0:
        missing -= len(visitor.recv(min(missing, 1 << 20)))


def requests(tunnel: Tunnel, visitors: list[socket.socket], rounds: int, path: bytes) -> None:
    text = REQUEST % path
    for number in range(rounds):
        for visitor in visitors:
            visitor.sendall(text)
        for visitor in visitors:
            response(visitor)
        if number % 16 == 0:  # as the control plane does, so that the ring is never full
            tunnel.server.poll_log_batch()


def main() -> None:
    origin, carrier, work, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    tunnel = Tunnel(origin, carrier)
    visitors = tunnel.visitors(CONNECTIONS)
    requests(tunnel, visitors, WARM_UP, b"/")
    if work == "bulk":
        requests(tunnel, visitors[:1], count, b"/body10000000")
    else:
        requests(tunnel, visitors[:1] if work == "single" else visitors, count, b"/")
    for visitor in visitors:
        visitor.close()
    tunnel.stop()


if __name__ == "__main__":
    main()
