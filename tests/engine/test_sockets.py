"""What the kernel is told about connections: read back from the engine's own sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from proxy_engine_core.core import Engine
from tests.engine.harness import Wire, dialling, serving, wait_until
from tests.engine.test_direct import ACCEPTED, Direct
from tests.engine.test_direct_agent import Direct as AgentDirect

KEEPALIVE = (1, 30, 10, 3)  # asked after 30 s, and every 10 s, three times
UNSENT = 128 << 10
READ = 8 << 20  # bytes of bulk, before a reader stops


def peer_of(end: socket.socket) -> socket.socket:
    """A copy of the engine's socket at the other end of `end`, once it has accepted it."""
    ends = (end.getpeername()[:2], end.getsockname()[:2])
    return wait_until(lambda: find_socket(ends), f"a socket of ours between {ends}")


def find_socket(ends: tuple[object, object]) -> socket.socket | None:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
            with suppress(OSError):  # it listens
                if (found.getsockname()[:2], found.getpeername()[:2]) == ends:
                    return found
            found.close()
    return None


def tcp_option(end: socket.socket, option: int) -> int:
    with peer_of(end) as ours:
        return ours.getsockopt(socket.IPPROTO_TCP, option)


def keepalive(end: socket.socket) -> tuple[int, ...]:
    with peer_of(end) as ours:
        return (
            ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(
                ours.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ),
        )


def unsent(end: socket.socket) -> int:
    return tcp_option(end, socket.TCP_NOTSENT_LOWAT)


@pytest.fixture
def direct() -> Iterator[Direct]:
    with serving() as server:
        yield Direct(server)


def test_silent_visitors_and_direct_connections_are_asked_whether_they_live(
    direct: Direct,
) -> None:
    _, wires = direct.stocked()
    visitor = direct.connect()
    assert [keepalive(wire.sock) for wire in (visitor, *wires)] == [KEEPALIVE] * (1 + len(wires))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_is_accepted_sends_at_once_and_is_not_paced_on_loopback(host: str) -> None:
    engine = Engine("server")
    port = engine.listen(host, 0)
    engine.start()
    try:
        with socket.create_connection(("127.0.0.1", port)) as visitor, peer_of(visitor) as ours:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT

            def congestion() -> bytes:  # what it has not from the listener is set behind accept()
                name = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                return name.rstrip(b"\0")

            wait_until(lambda: congestion() == b"reno")
    finally:
        engine.stop()


def test_silent_targets_and_direct_connections_are_asked_whether_they_live() -> None:
    with dialling(tcp_keepalive_ms=3000) as agent:
        listener = agent.target("db")
        data, target = AgentDirect(agent).opened(listener)
        assert keepalive(data.sock) == keepalive(target.sock) == (1, 3, 1, 3)


def test_nobody_is_asked_where_it_is_switched_off() -> None:
    with serving(tcp_keepalive_ms=0) as server:
        assert keepalive(server.visitor().sock)[0] == 0


def stall_in_bulk(source: Wire, reader: Wire) -> int:
    """The reader stops in the middle of what the source sends; the bytes that it has not read."""
    sent = 0
    has_stopped = threading.Event()

    def send() -> None:
        nonlocal sent
        source.sock.settimeout(1)
        while True:
            try:
                sent += source.sock.send(bytes(1 << 20))
            except TimeoutError:
                if has_stopped.is_set():
                    return  # nothing more is taken

    sender = threading.Thread(target=send)
    sender.start()
    reader.take(READ)
    has_stopped.set()
    sender.join()
    return sent - READ


def test_in_bulk_the_kernel_holds_what_is_not_sent_and_not_afterwards(direct: Direct) -> None:
    _, visitor, data = direct.opened()
    assert unsent(visitor.sock) == UNSENT
    rest = stall_in_bulk(data, visitor)
    assert unsent(visitor.sock) == 0
    visitor.take(rest)
    for _ in range(8):  # what comes in small pieces is not bulk any more
        data.sock.send(b"x")
        visitor.take(1)
    wait_until(lambda: unsent(visitor.sock) == UNSENT)  # set behind the last of them


def test_few_connections_may_fill_the_kernel_where_memory_is_small() -> None:
    with serving(1, memory_max=64 << 20) as server:
        direct = Direct(server)
        _, wires = direct.stocked()
        visitors: list[Wire] = []
        for number in range(4):
            if number == 3:  # when one has gone, there is room for another
                visitors.pop(0).sock.close()
                server.wait_stat("requests_aborted", 1)
            visitors.append(direct.connect())
            data = direct.taken(wires)
            data.sock.sendall(ACCEPTED)
            stall_in_bulk(data, visitors[-1])
            if number == 2:
                assert [unsent(each.sock) for each in visitors] == [0, 0, UNSENT]
        assert [unsent(each.sock) for each in visitors] == [0, UNSENT, 0]
