"""Turns on a link: its sources share it, and what is small passes them.

Visitor --upload--> Engine --link, which the Device reads when the test says--> Device
"""

from __future__ import annotations

import array
import collections
import fcntl
import os
import socket

import pytest

from tests.engine.harness import CARRIERS, DATA, Carrier, Device, Server, serving, wait_until

SIOCOUTQNSD = 0x894B  # ioctl: bytes of a socket's output that were not sent yet
NOTSENT_LOWAT = 128 * 1024
KIB, MIB = 1 << 10, 1 << 20
HEAD = b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: %d\r\n\r\n"


def uploads(server: Server, device: Device, count: int, size: int) -> dict[int, socket.socket]:
    """So many uploads that have begun, by stream, with window enough for all of it."""
    found = {}
    for _ in range(count):
        visitor = server.visitor()
        visitor.send(HEAD % size)
        stream, _ = device.request()
        device.grant(stream, size)
        visitor.sock.setblocking(False)
        found[stream] = visitor.sock
    return found


def push(socks: dict[int, socket.socket], left: dict[int, int]) -> None:
    """As much of each upload as the kernel takes."""
    for stream, sock in socks.items():
        while left[stream]:
            try:
                left[stream] -= sock.send(bytes(min(left[stream], 64 * KIB)))
            except BlockingIOError:
                break


def fill(server: Server, socks: dict[int, socket.socket], left: dict[int, int]) -> None:
    """Until the link takes no more, and everybody waits."""
    seen: list[int] = []

    def is_stuck() -> bool:
        push(socks, left)
        server.settle()  # a worker that is not on a CPU is not stuck
        seen.append(server.stat("link_bytes_out"))
        return len(seen) > 100 and seen[-100] == seen[-1]

    wait_until(is_stuck)
    assert server.stat("buffer_bytes") >= 256 * KIB


def unsent(device: Device) -> int:
    """Bytes of the link that wait in the kernel of the engine's side."""
    peer = device.sock.getsockname()
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.getpeername() == peer:
                    value = array.array("i", [0])
                    fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, value)
                    return value[0]
        except OSError:
            continue
    raise AssertionError("the engine has no such link")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_bulk_streams_take_turns(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        size = 8 * MIB
        socks = uploads(server, device, 6, size)
        left = dict.fromkeys(socks, size)
        got: collections.Counter[int] = collections.Counter()
        push(socks, left)
        # The first megabytes show how it began; from then on everybody has had a turn.
        while sum(got.values()) < 18 * MIB:
            push(socks, left)
            found = device.next()
            if found.type == DATA:
                got[found.stream] += found.length
        assert len(got) == 6
        assert max(got.values()) < 3 * min(got.values()), got
        for stream in socks:
            device.reset(stream)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_request_passes_uploads_that_wait(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        size = 16 * MIB
        socks = uploads(server, device, 4, size)
        left = dict.fromkeys(socks, size)
        fill(server, socks, left)
        requests = server.stat("requests")
        server.visitor().get("/small")
        server.wait_stat("requests", requests + 1)
        # What the kernel has of the link goes first, and the frame or message that was cut;
        # nothing else of what waits in the engine does.
        cut = 64 * KIB if carrier == "raw" else (128 + 64) * KIB
        sent = server.stat("link_bytes_out")
        ahead = 0
        while True:
            found = device.next()
            if found.type == DATA and b"/small" in found.payload:
                break
            ahead += 12 + len(found.payload)
        assert ahead <= sent + cut + 12
        for stream in socks:
            device.reset(stream)


def test_the_kernel_holds_little_that_was_not_sent() -> None:
    with serving() as server:
        device = server.device()
        size = 64 * MIB
        socks = uploads(server, device, 2, size)
        left = dict.fromkeys(socks, size)
        fill(server, socks, left)
        # A send may begin below the mark and end above it, by the size of one.
        assert unsent(device) <= NOTSENT_LOWAT + 64 * KIB + 16 * KIB
        # ... and the link goes on by itself when the mark is passed again.
        received = 0
        while received < 8 * MIB:
            push(socks, left)
            found = device.next()
            received += found.length if found.type == DATA else 0
        for stream in socks:
            device.reset(stream)
