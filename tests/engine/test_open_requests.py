"""What is under way, listed while it runs."""

from __future__ import annotations

import pytest

from proxy_engine_core import core, log_batch, log_index
from proxy_engine_core.core import LogRecord
from tests.engine.harness import OK_HELLO, Server, serving, wait_until

QUERY = 99


def open_requests(server: Server, limit: int = 1000) -> list[LogRecord]:
    server.engine.requests_open(QUERY, limit)
    left, batch = server.engine.workers, b""
    while left:
        _, query, part, is_last = server.event(core.EVENT_REQUESTS_OPEN)
        assert query == QUERY
        batch += part
        left -= is_last
    return log_batch.unpack(batch)


def test_nothing_is_under_way_in_an_idle_server() -> None:
    with serving(2) as server:
        assert open_requests(server) == []
        server.device()
        server.visitor()
        assert open_requests(server) == []


def test_a_request_is_listed_with_what_is_known_by_now() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(
            b"POST /up?x=1 HTTP/1.1\r\nHost: web.test\r\nX-Request-Id: abc\r\n"
            b"Content-Length: 1000\r\n\r\n" + bytes(400)
        )
        stream, head = device.request()
        wait_until(lambda: any(each.bytes_in >= 400 for each in open_requests(server)))
        [record] = open_requests(server)
        assert record.flags == core.LOG_OPEN
        assert (record.method, record.host, record.path) == ("POST", "web.test", "/up?x=1")
        assert (record.request_id, record.visitor) == ("abc", "127.0.0.1")
        assert (record.device, record.route) == (7, server.route_count)
        assert (record.status, record.reason, record.bytes_out) == (0, "", 0)
        assert (record.first_byte_us, record.target_us) == (0, 0)
        assert log_index.state(record.status, record.flags, record.reason) == "open"
        later = open_requests(server)[0]
        assert later.total_us > record.total_us > 0
        assert later.time_us - later.total_us == pytest.approx(
            record.time_us - record.total_us, abs=100_000
        )
        device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(30))
        wait_until(lambda: open_requests(server)[0].status == 200)
        assert open_requests(server)[0].first_byte_us > 0
        visitor.send(bytes(600))
        device.data(stream, bytes(70))
        assert len(visitor.response().body) == 100
        wait_until(lambda: open_requests(server) == [])
        finished = server.log()
        assert finished.flags & core.LOG_OPEN == 0
        assert finished.request_id == "abc"
        assert b"abc" in head


def test_upgrades_tcp_connections_and_those_who_wait_are_listed() -> None:
    with serving() as server:
        device = server.device(streams_max=2)
        port = server.engine.tcp_listen("127.0.0.1", 0)
        server.routes([("set", f"tcp::{port}", 50, [device.link], "db")])
        upgraded = server.visitor()
        upgraded.get("/ws", fields="Connection: Upgrade\r\nUpgrade: x\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert upgraded.take_head()
        tcp = type(upgraded)(port)
        server.wires.append(tcp)
        device.accept(device.opened())
        waiting = server.visitor()
        waiting.get("/waits")
        wait_until(lambda: len(open_requests(server)) == 3)
        found = {record.path or record.host: record for record in open_requests(server)}
        assert found["/ws"].flags & core.LOG_TUNNEL
        assert found["/ws"].status == 101
        assert found[f":{port}"].flags & core.LOG_TCP
        assert found["/waits"].flags == core.LOG_OPEN
        asking, _ticket = server.knock()  # a device, not a request
        assert len(open_requests(server)) == 3
        asking.close()
        tcp.abort()
        upgraded.abort()


@pytest.mark.parametrize("workers", [1, 3])
def test_many_come_in_parts_and_no_more_than_were_asked_for(workers: int) -> None:
    with serving(workers) as server:
        devices = [server.device(tunnel=f"w{index}", worker=index) for index in range(workers)]
        path = "/" + "p" * 1000
        visitors = []
        for index in range(150):
            visitor = server.visitor()
            visitor.get(f"{path}{index}", host=f"w{index % workers}.test")
            visitors.append(visitor)
        found: list[LogRecord] = wait_until(
            lambda: (records := open_requests(server)) and len(records) == 150 and records
        )
        assert {record.path[1001:] for record in found} == {str(index) for index in range(150)}
        assert len({record.request_id for record in found}) == 150
        assert len(open_requests(server, limit=20)) == 20 * workers
        assert open_requests(server, limit=0) == []
        for device in devices:
            stream, _ = device.request()
            device.data(stream, OK_HELLO)
        wait_until(lambda: len(open_requests(server)) == 150 - workers)


def test_a_stop_amid_lists_is_a_stop() -> None:
    with serving(2) as server:
        device = server.device()
        server.visitor().get()
        device.request()
        for query in range(100):
            server.engine.requests_open(query)
