"""What the visitors of a tunnel did, counted by its route id."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from proxy_engine.metrics.routes import RouteCounts, route_counts
from proxy_engine_core import core
from proxy_engine_core.core import Engine
from tests.engine.harness import (
    DATA,
    OK_HELLO,
    Device,
    Server,
    Visitor,
    serving,
    wait_until,
)
from tests.engine.test_direct import Direct
from tests.engine.test_udp import UdpServer, opened, packed

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def counts(server: Server, route: int) -> RouteCounts:
    found = {row.route: row for row in route_counts(server.engine.route_stats())}
    return found[route]


def answer(device: Device, response: bytes = OK_HELLO, stream: int | None = None) -> int:
    """The next request, on a stream that was used before or a new one; its stream."""
    stream, _ = device.request(stream=stream)
    device.data(stream, response)
    return stream


def status(code: int) -> bytes:
    return f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def test_fields_and_bounds_fit_each_other() -> None:
    assert core.ROUTE_STATS[0] == "route"
    assert len(core.ROUTE_STATS) == 15 + len(core.ROUTE_STATS_BOUNDS_US) + 1
    assert sorted(core.ROUTE_STATS_BOUNDS_US) == list(core.ROUTE_STATS_BOUNDS_US)
    [unrouted] = route_counts(Engine("server").route_stats())
    assert unrouted._replace(ended=(), durations=()) == (*[0] * 8, (), 0, ())


def test_requests_count_by_the_class_of_their_status(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    stream = None
    for code in (200, 201, 302, 404, 503, 700):
        visitor.get()
        stream = answer(device, status(code), stream)
        assert visitor.response().status == code
        server.log()
    found = counts(server, 1)
    assert found.ended == (0, 0, 2, 1, 1, 2)
    assert (found.refused, found.failed, found.aborted) == (0, 0, 0)
    assert found.open == found.connections == 0
    assert sum(found.durations) == 6
    assert found.duration_us > 0


def test_bytes_are_those_of_the_log(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    visitor.send(
        b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 70000\r\n\r\n" + bytes(70000)
    )
    stream, head = device.request()
    size = len(head.partition(b"\r\n\r\n")[2])
    while size < 70000:
        size += len(device.next(stream, DATA).payload)
    device.data(stream, OK_HELLO)
    visitor.response()
    record = server.log()
    found = counts(server, 1)
    assert (found.bytes_in, found.bytes_out) == (record.bytes_in, record.bytes_out)
    assert server.stat("visitor_bytes_in") == record.bytes_in
    assert server.stat("visitor_bytes_out") == record.bytes_out


def test_what_is_under_way_counts_while_it_runs(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    visitor.get()
    stream, _ = device.request()
    device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + bytes(100))
    wait_until(lambda: counts(server, 1).bytes_out >= 100)
    before = counts(server, 1)
    assert (before.open, sum(before.ended)) == (1, 0)
    device.data(stream, bytes(100))
    wait_until(lambda: counts(server, 1).bytes_out == before.bytes_out + 100)
    device.data(stream, bytes(100))
    visitor.response()
    record = server.log()
    found = counts(server, 1)
    assert (found.open, found.bytes_out) == (0, record.bytes_out)
    assert server.stat("visitor_bytes_out") == record.bytes_out


def test_a_large_upload_counts_while_it_runs(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    visitor.send(
        b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 200000\r\n\r\n" + bytes(100000)
    )
    device.request()
    wait_until(lambda: counts(server, 1).bytes_in >= 100000)
    assert counts(server, 1).open == 1


def test_a_websocket_counts_as_a_connection_and_has_no_duration(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    visitor.get(fields=UPGRADE)
    stream, _ = device.request()
    device.data(stream, SWITCHED)
    visitor.take_head()
    before = wait_until(lambda: (row := counts(server, 1)).connections and row)
    visitor.send(bytes(1000))
    device.data(stream, bytes(500))
    visitor.take(500)
    wait_until(lambda: counts(server, 1).bytes_in == before.bytes_in + 1000)
    wait_until(lambda: counts(server, 1).bytes_out == before.bytes_out + 500)
    assert counts(server, 1).open == 1
    device.fin(stream)
    visitor.close()
    server.log()
    found = counts(server, 1)
    assert (found.open, found.ended[1], found.connections) == (0, 1, 1)
    assert sum(found.durations) == 0


def test_what_the_proxy_answers_itself_and_what_breaks_off(server: Server) -> None:
    device = server.device()
    server.routes([
        ("set", "host:away.test", 5, [], "away"),
        ("set", "host:off.test", 6, [device.link], "off", {"disabled": True}),
    ])  # fmt: skip
    for host, code in (("away.test", 503), ("off.test", 404), ("nobody.test", 404)):
        visitor = server.visitor()
        visitor.get(host=host)
        assert visitor.response().status == code
        server.log()
    away, off, nobody = (counts(server, route) for route in (5, 6, 0))
    assert (away.failed, away.refused, away.ended[5]) == (1, 0, 1)
    assert (off.failed, off.refused, off.ended[4]) == (0, 1, 1)
    assert (nobody.refused, nobody.ended[4], nobody.open) == (1, 1, 0)
    assert nobody.bytes_out > 0
    visitor = server.visitor()
    visitor.get()
    device.request()
    visitor.abort()
    record = server.log()
    found = counts(server, 1)
    assert record.reason == "visitor_gone"
    assert (found.aborted, found.ended[0], found.open) == (1, 1, 0)


def test_a_tcp_connection_counts_while_it_runs(server: Server) -> None:
    tcp_port = server.engine.tcp_listen("127.0.0.1", 0)
    device = server.device(tunnel=None)
    server.routes([("set", f"tcp::{tcp_port}", 3, [device.link], "db")])
    visitor = Visitor(tcp_port)
    server.wires.append(visitor)
    visitor.send(bytes(100))
    stream = device.opened()
    device.accept(stream)
    device.data(stream, bytes(50))
    visitor.take(50)
    wait_until(lambda: counts(server, 3)[3:5] == (100, 50))
    found = counts(server, 3)
    assert (found.open, found.connections) == (1, 1)
    visitor.abort()
    server.log()
    found = counts(server, 3)
    assert (found.open, found.ended[0], found.aborted, sum(found.durations)) == (0, 1, 1, 0)


def test_a_direct_connection_counts_while_it_runs(server: Server) -> None:
    direct = Direct(server)
    _, visitor, data = direct.opened()
    visitor.send(bytes(300))
    data.take(300)
    data.sock.sendall(bytes(200))
    visitor.take(200)
    wait_until(lambda: counts(server, 3)[3:5] == (300, 200))
    assert counts(server, 3).open == counts(server, 3).connections == 1
    visitor.abort()
    server.log()
    found = counts(server, 3)
    assert (found.open, found.bytes_in, found.bytes_out, found.aborted) == (0, 300, 200, 1)


def test_visitors_of_a_udp_tunnel_count_while_they_are_there() -> None:
    with serving(udp_brief_timeout_ms=2000, udp_timeout_ms=2000) as server:
        udp = UdpServer(server)
        device = udp.device()
        visitor = udp.visitor()
        visitor.send(bytes(40))
        stream, _, _ = opened(device)
        device.data(stream, packed(bytes(7), bytes(8)))
        visitor.recv(100)
        visitor.recv(100)
        found = wait_until(lambda: (row := counts(server, 3)).bytes_out == 15 and row)
        assert (found.open, found.connections, found.bytes_in) == (1, 1, 40)
        wait_until(lambda: counts(server, 3).open == 0)
        found = counts(server, 3)
        assert (found.ended[0], found.aborted, found.connections) == (1, 0, 1)
        assert (found.bytes_in, found.bytes_out) == (40, 15)
        # Those who are there when the engine stops are nobody's any more.
        udp.visitor().send(b"x")
        wait_until(lambda: counts(server, 3).open == 1)
        udp.close()
    assert counts(server, 3).open == 0


def test_a_moved_request_is_one_request() -> None:
    with serving(2) as server:
        devices = [server.device(worker=index, tunnel=f"w{index}") for index in range(2)]
        visitor = server.visitor()
        streams: dict[int, int] = {}
        for index in (0, 1, 0, 1):
            visitor.get(host=f"w{index}.test")
            streams[index] = answer(devices[index], stream=streams.get(index))
            assert visitor.response().status == 200
        assert server.stat("visitors_moved_out") >= 2
        wait_until(lambda: [counts(server, each).open for each in (1, 2)] == [0, 0])
        assert [sum(counts(server, route).ended) for route in (1, 2)] == [2, 2]
        assert sum(counts(server, 0).ended) == 0


def test_counts_outlive_a_route_that_comes_back(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    visitor.get()
    stream = answer(device)
    visitor.response()
    server.log()
    server.routes([("delete", "host:web.test"), ("delete", "name:web")])
    visitor.get()
    assert visitor.response().status == 404
    server.routes([("set", "host:web.test", 1, [device.link], "web")])
    visitor.get()
    answer(device, stream=stream)
    visitor.response()
    wait_until(lambda: counts(server, 1).ended[2] == 2)


def test_counts_of_routes_that_went_are_given_up_when_there_are_many(server: Server) -> None:
    device = server.device()
    visitor = server.visitor()
    visitor.get()
    stream, _ = device.request()  # route 1 goes, with a request under way
    delete = [("delete", "host:web.test"), ("delete", "name:web")]
    server.routes([*delete])
    for route in range(100, 4200):
        server.engine.routes_apply([
            ("set", f"host:{route}.test", route, [], "gone"), ("delete", f"host:{route}.test"),
        ])  # fmt: skip
        if route % 200 == 0:
            server.settle()
    server.settle()
    server.routes([("set", "host:last.test", 5000, [], "last")])
    kept = {row.route for row in route_counts(server.engine.route_stats())}
    assert {0, 1, 5000} <= kept
    assert len(kept) < 2100
    device.data(stream, OK_HELLO)
    assert visitor.response().status == 200
    server.log()
    assert counts(server, 1).ended[2] == 1


def test_numbers_can_still_be_read_after_stop() -> None:
    with serving() as server:
        server.device()
    assert counts(server, 1).open == 0
    agent = Engine("agent")
    assert len(agent.route_stats()) == 8 * len(core.ROUTE_STATS)


def test_a_socket_that_says_nothing_is_no_request(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        wait_until(lambda: server.stat("accepted") == 1)
    assert sum(counts(server, 0).ended) == 0
