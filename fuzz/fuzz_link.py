"""Fuzz a whole server engine with what a hostile device may send over its link.

One engine lives for the whole run. Every input gets a link of its own, with visitors that
have asked for something, and a fresh visitor afterwards must still be answered. The first
byte chooses:

    bit 0  the WebSocket carrier; the input is wrapped in one message ...
    bit 1  ... unless this is set: then it is what follows the handshake, as it is
    bit 2  a stock peer: no preamble, no control stream
    bit 3  two visitors wait for a response, one of them for an upgrade
    bit 4  ... and only one stream is allowed, so one of them waits for it
    bit 5  the input arrives in two pieces
    bit 6  the visitors leave before the input comes

The server's streams have the ids 2 and 4, so inputs can answer on them.

Permitted outcomes: the link is up or down, with exactly one event each. Everything else
is a bug: a hang, a crash, memory still lent when all is gone.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from proxy_engine_core import core
from tests.engine.harness import OK_HELLO, Carrier, Server, frame, ws_frame

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

UPGRADED = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nxyz"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
CONTROL = struct.pack(">I", 2) + b"{}"


def answer(stream: int, response: bytes, flags: int = 0) -> bytes:
    return frame(WINDOW, ACK, stream) + frame(DATA, flags, stream, len(response), response)


SEEDS = [
    b"\x08" + answer(2, OK_HELLO) + answer(4, UPGRADED),
    b"\x08" + answer(2, CHUNKED) + answer(4, UPGRADED, FIN),
    b"\x28" + answer(2, b"HTTP/1.1 200 OK\r\n\r\nto the end", FIN) + frame(WINDOW, RST, 4, 1),
    b"\x18" + answer(2, OK_HELLO) + answer(2, UPGRADED),
    b"\x01" + frame(WINDOW, SYN, 1) + frame(DATA, 0, 1, len(CONTROL), CONTROL),
    b"\x03" + ws_frame(9, b"ping") + ws_frame(2, frame(PING, SYN, 0, 1)) + ws_frame(8, b""),
    b"\x0c" + answer(2, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK_HELLO) + answer(4, OK_HELLO),
    b"\x49" + answer(2, OK_HELLO) + frame(GO_AWAY, 0, 0, 0),
]
DICTIONARY = [
    OK_HELLO, CHUNKED, UPGRADED, CONTROL, b"\r\n\r\n", b"Content-Length: ",
    b"HTTP/1.1 204 N\r\n\r\n",
    frame(WINDOW, ACK, 2), frame(WINDOW, ACK, 4), frame(WINDOW, RST, 2), frame(WINDOW, RST, 4, 1),
    frame(DATA, FIN, 2), frame(DATA, FIN, 4), frame(WINDOW, 0, 2, 1000), frame(WINDOW, SYN, 1),
    frame(WINDOW, SYN, 3), frame(PING, SYN, 0, 7), frame(GO_AWAY, 0, 0, 1), ws_frame(9, b"p"),
    ws_frame(8, b"\x03\xe8"), ws_frame(1, b"text"),
]  # fmt: skip

server: Server | None = None


def running() -> Server:
    # Not at import: the fuzzer forks, and a worker thread does not survive that.
    global server
    if server is None:
        server = Server(head_timeout_ms=5_000)
    return server


def requests_seen(engine: Server) -> int:
    return engine.stat("streams_opened") + engine.stat("requests_queued")


def one_input(data: bytes) -> None:
    if not data:
        return
    choice, data = data[0], data[1:]
    engine = running()
    carrier: Carrier = "websocket" if choice & 1 else "raw"
    device = engine.device(carrier, preamble=not choice & 4, streams_max=1 if choice & 16 else 500)
    visitors = []
    if choice & 8:
        for fields in ("", "Connection: Upgrade\r\nUpgrade: echo\r\n"):
            before = requests_seen(engine)
            visitor = engine.visitor()
            visitor.get(fields=fields)
            while requests_seen(engine) == before:
                time.sleep(0.0002)
            visitors.append(visitor)
    if choice & 64:
        for visitor in visitors:
            visitor.close()
    wire = data if choice & 2 else device.wrap(data)
    try:
        half = len(wire) // 2 if choice & 32 else 0
        device.send_raw(wire[:half])
        device.send_raw(wire[half:])
        device.sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has been thrown out already
    down = engine.event(core.EVENT_LINK_DOWN)
    assert down[1] == device.link
    for wire_ in (device, *visitors):
        wire_.close()
    engine.wires.clear()
    probe = engine.visitor()
    probe.get(host="nobody.test", fields="Connection: close\r\n")
    assert probe.response().status == 404
    probe.close()
    engine.wires.clear()
    deadline = time.monotonic() + 10
    while engine.stat("connections") != 1 or engine.stat("buffer_bytes"):
        assert time.monotonic() < deadline, engine.engine.stats()
        time.sleep(0.0005)
    assert all(event[0] in (core.EVENT_CONTROL, core.EVENT_AUTH) for event in engine.events)
    engine.events.clear()
    engine.engine.poll_logs(1 << 20)
