"""What a worker refuses when its memory runs short, and that it takes it up again."""

from __future__ import annotations

from proxy_engine_core import core
from tests.engine.harness import Device, Server, Visitor, serving, wait_until

KIB, MIB = 1 << 10, 1 << 20
MOST = 4 * MIB
NONE, GROWTH, WORK, ACCEPT = range(4)
WINDOW = 16 * MIB  # of each stream: far more than the kernel takes of a visitor's response
STALLED = 8  # visitors
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


def stall(server: Server, device: Device, count: int = STALLED) -> dict[int, Visitor]:
    """Visitors, by stream, that read nothing of their responses."""
    visitors = {}
    for _ in range(count):
        visitor = server.visitor(receive_buffer=4096)
        visitor.get("/bulk")
        stream, _ = device.request()
        device.data(stream, HEAD)
        visitors[stream] = visitor
    return visitors


def levels(server: Server) -> list[int]:
    """Of memory, as told so far."""
    server.events += server.engine.poll()
    found = [event for event in server.events if event[0] == core.EVENT_PRESSURE]
    return [level for _, level, _, _, what in found if what == "memory"]


def feed(server: Server, device: Device, visitors: dict[int, Visitor], level: int) -> None:
    """Send all of them more, within their windows, until this level is reached."""
    piece = 16 * KIB
    for _ in range(WINDOW // piece - 1):
        for stream in visitors:
            seen = server.stat("link_bytes_in")
            device.data(stream, bytes(piece))
            server.wait_stat("link_bytes_in", seen + piece)
            if levels(server)[-1:] >= [level]:
                return
    raise AssertionError(f"level {level} was not reached: {levels(server)}")


def leave(server: Server, visitors: dict[int, Visitor]) -> None:
    for visitor in visitors.values():
        visitor.abort()
    wait_until(lambda: levels(server)[-1] == NONE, "the end of it")


def test_new_work_is_refused_and_taken_again() -> None:
    with serving(memory_max=MOST) as server:
        device = server.device(window=WINDOW)
        visitors = stall(server, device)
        present = server.visitor()  # a connection from before
        feed(server, device, visitors, WORK)
        assert levels(server) in ([GROWTH, WORK], [WORK], [GROWTH, ACCEPT])
        present.get("/")
        response = present.response()
        assert (response.status, response.fields["retry-after"]) == (503, "2")
        assert b'"memory_short"' in response.body
        assert not present.is_cut_off()  # the connection ends, properly
        assert (server.log().reason, server.stat("memory_refused")) == ("memory_short", 1)
        leave(server, visitors)
        assert server.stat("memory_stops_work") == 1
        visitor = server.visitor()
        visitor.get("/")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert visitor.response().status == 200


def test_connections_wait_and_are_accepted_again() -> None:
    with serving(1, memory_max=MOST) as server:
        device = server.device(window=WINDOW)
        visitors = stall(server, device)
        feed(server, device, visitors, ACCEPT)
        accepted, turns = server.stat("accepted"), server.stat("turns")
        visitor = server.visitor()
        visitor.get("/")
        assert not visitor.is_readable(0.3)
        assert server.stat("accepted") == accepted
        assert server.stat("turns") - turns < 100  # it looks now and then, it does not spin
        leave(server, visitors)
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert visitor.response().status == 200
        assert server.stat("memory_stops_accept") == 1


def test_who_needs_more_than_there_is_is_cut_off() -> None:
    with serving(memory_max=200 * KIB) as server:
        device = server.device(window=WINDOW)
        [(stream, visitor)] = stall(server, device, 1).items()
        for _ in range(WINDOW // (16 * KIB) - 1):
            if not server.stat("memory_cut_off"):
                device.data(stream, bytes(16 * KIB))
        server.wait_stat("memory_cut_off", 1)
        assert visitor.is_cut_off()
        assert server.log().reason == "visitor_gone"


def test_a_spent_link_is_told_once() -> None:
    with serving(link_streams_max=3) as server:
        device = server.device()
        for _ in range(6):
            server.visitor().get("/")
            device.request()
        assert server.event(core.EVENT_LINK_SPENT) == (core.EVENT_LINK_SPENT, device.link)
        assert not server.has_event(core.EVENT_LINK_SPENT)
        assert server.stat("links_spent") == 1
