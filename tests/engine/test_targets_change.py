"""Another target behind the same tunnel, and domains with a "*"."""

from __future__ import annotations

import pytest

from tests.engine.harness import Device, Visitor, serving

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answered(device: Device, visitor: Visitor, stream: int) -> None:
    device.data(stream, OK)
    assert visitor.response().body == b"ok"


def test_after_a_flush_no_stream_to_the_old_target_is_used_again() -> None:
    with serving() as server:
        device = server.device()
        first, second = server.visitor(), server.visitor()
        first.get("/1")
        idle, _ = device.request()
        second.get("/2")
        busy, _ = device.request()
        answered(device, first, idle)
        server.engine.link_flush(device.link, server.route_count + 1)  # another tunnel's
        server.engine.link_flush(device.link, server.route_count)
        server.settle()
        first.get("/3")
        new, _ = device.request()
        assert new not in (idle, busy)
        answered(device, second, busy)  # what was under way finishes
        answered(device, first, new)
        for visitor in (first, second):
            visitor.get("/4")
            assert device.request(stream=new)[1].startswith(b"GET /4")
            answered(device, visitor, new)
        assert server.stat("streams_opened") == 3
        assert server.stat("streams_reused") == 2


def test_a_flush_of_a_link_that_has_gone_is_no_error() -> None:
    with serving() as server:
        device = server.device()
        server.engine.link_close(device.link)
        assert device.closed()
        server.engine.link_flush(device.link, 1)
        server.engine.link_flush(device.link, 1)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("www.example.com", 200),
        ("WWW.Example.COM:80", 200),
        ("a.sub.example.com", 404),  # it stands for one label
        ("example.com", 404),
        ("own.example.com", 503),  # a route of its own comes first
        ("[::ffff:1.2.3.4]", 404),
        (".example.com", 404),
        ("x." + "a" * 63 + ".example.com", 404),
    ],
)
def test_a_star_stands_for_one_label(host: str, status: int) -> None:
    with serving() as server:
        device = server.device()
        server.routes(
            [
                ("set", "host:*.example.com", 8, [device.link], "web"),
                ("set", "host:own.example.com", 9, [], "own"),
            ]
        )
        visitor = server.visitor()
        visitor.get(host=host)
        if status == 200:
            device.data(device.request()[0], OK)
        assert visitor.response().status in (status, 400 if host.startswith(".") else status)
        assert server.log().route == {200: 8, 503: 9}.get(status, 0)
