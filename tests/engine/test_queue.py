"""Visitors waiting for a stream: the limit of a link, its order, and everybody who leaves."""

from __future__ import annotations

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    DATA,
    OK_HELLO,
    RST,
    WINDOW,
    Device,
    Server,
    Visitor,
    serving,
    wait_until,
)


def limited(server: Server) -> Device:
    """A device that stands one stream besides the control stream."""
    device = server.device(streams_max=2)
    device.open_control()
    return device


def queue(server: Server, count: int, tunnel: str = "web") -> list[Visitor]:
    """Visitors that ask one after the other, each known to wait before the next comes."""
    visitors = []
    for number in range(count):
        waiting = server.stat("requests_queued")
        visitor = server.visitor()
        visitor.get(f"/{number}", host=f"{tunnel}.test")
        server.wait_stat("requests_queued", waiting + 1)
        visitors.append(visitor)
    return visitors


@pytest.mark.parametrize("close", [True, False], ids=["new streams", "one stream"])
def test_who_waits_is_served_in_order(close: bool) -> None:
    response = OK_HELLO
    if close:
        response = response.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serving() as server:
        device = limited(server)
        first = server.visitor()
        first.get("/first")
        stream, _ = device.request()
        visitors = queue(server, 20)
        device.data(stream, response)
        assert first.response().status == 200
        for number, visitor in enumerate([*visitors, first]):
            stream, head = device.request(stream=None if close else stream)
            path = "/late" if visitor is first else f"/{number}"
            assert head.startswith(f"GET {path} ".encode())
            if number == 10:
                first.get("/late")  # does not overtake
            device.data(stream, response)
            assert visitor.response().status == 200
        assert server.stat("requests_queued") == 21


def test_a_crowd_that_comes_at_once_waits_its_turn() -> None:
    with serving(open_timeout_ms=60_000) as server:
        device = limited(server)
        visitors = [server.visitor() for _ in range(1_200)]
        for visitor in visitors:
            visitor.get()
        stream, _ = device.request()
        server.wait_stat("requests_queued", len(visitors) - 1)
        device.data(stream, OK_HELLO)
        for _ in visitors[1:]:
            device.request(stream=stream)
            device.data(stream, OK_HELLO)
        assert {visitor.response().status for visitor in visitors} == {200}


@pytest.mark.parametrize("how", ["close", "abort"])
def test_link_end_lets_everybody_in_the_queue_know(how: str) -> None:
    # More waited than there were streams: the rest kept a pointer to the link.
    with serving(open_timeout_ms=60_000) as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        device.request()
        visitors = queue(server, 10)
        if how == "close":
            device.close()
        else:
            device.abort()
        assert server.event(core.EVENT_LINK_DOWN)[1] == device.link
        assert first.response().status == 502
        for visitor in visitors:
            answer = visitor.response()
            assert answer.status == 503
            assert b"device_offline" in answer.body
        for visitor in visitors:
            visitor.close()
        wait_until(lambda: server.connections() == 1)  # the first visitor


def test_a_replica_takes_over_who_waited() -> None:
    with serving() as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        device.request()
        visitors = queue(server, 5)
        other = server.device(tunnel=None)
        server.route("web", device, other)
        server.settle()
        device.close()
        for stream in [other.request()[0] for _ in visitors]:
            other.data(stream, OK_HELLO)
        for visitor in visitors:
            assert visitor.response().status == 200


@pytest.mark.parametrize("leaver", [0, 1, 4])
def test_who_leaves_the_queue_does_not_take_a_turn_with_it(leaver: int) -> None:
    with serving() as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        stream, _ = device.request()
        visitors = queue(server, 5)
        visitors[leaver].abort()
        # It leaves just when its turn may have come, or before: nobody can tell.
        device.data(stream, OK_HELLO)
        assert first.response().status == 200
        for number, visitor in enumerate(visitors):
            if number == leaver:
                continue
            stream, head = device.request(stream=stream)
            assert head.startswith(f"GET /{number} ".encode())
            device.data(stream, OK_HELLO)
            assert visitor.response().status == 200


def test_who_is_deleted_from_the_routes_leaves_the_queue() -> None:
    with serving() as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        stream, _ = device.request()
        visitors = queue(server, 3)
        server.routes([("delete", "host:web.test")])
        device.data(stream, OK_HELLO)
        assert first.response().status == 200
        assert [visitor.response().status for visitor in visitors] == [404] * 3


def test_waiting_ends_after_open_timeout_with_503() -> None:
    with serving(open_timeout_ms=1000) as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        stream, _ = device.request()
        visitors = queue(server, 3)
        for visitor in visitors:
            answer = visitor.response()
            assert (answer.status, answer.fields["retry-after"]) == (503, "2")
            assert server.log().reason == "overloaded"
        device.data(stream, OK_HELLO)
        assert first.response().status == 200


def test_an_idle_stream_of_another_tunnel_makes_room() -> None:
    with serving(pool_idle_ms=600_000, open_timeout_ms=2_000) as server:
        device = limited(server)
        server.route("other", device)
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().status == 200
        visitor.get(host="other.test")
        assert device.next(stream, WINDOW).flags == RST
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().status == 200


def test_unanswered_opens_are_limited_and_acks_let_more_through() -> None:
    with serving(open_timeout_ms=60_000) as server:
        device = server.device()
        visitors = [server.visitor() for _ in range(260)]
        for visitor in visitors:
            visitor.get()
        streams = [device.request(accept=False)[0] for _ in range(256)]
        server.wait_stat("requests_queued", 4)
        assert server.stat("streams_opened") == 256
        device.accept(streams[0])
        streams.append(device.request(accept=False)[0])
        # An answer without an ACK counts as well.
        device.data(streams[1], OK_HELLO[:10])
        streams.append(device.request(accept=False)[0])
        device.reset(streams.pop(2))
        streams.append(device.request(accept=False)[0])
        device.data(streams[1], OK_HELLO[10:])
        stream, _ = device.request(stream=streams[1])
        for stream in streams:
            device.data(stream, OK_HELLO)
        assert sorted(visitor.response().status for visitor in visitors) == [200] * 259 + [502]


def test_who_comes_to_a_full_queue_is_refused_at_once() -> None:
    with serving(open_queue_max=20) as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        device.request()
        visitors = queue(server, 20)
        late = server.visitor()
        late.get()
        assert late.response().status == 503
        assert server.stat("requests_queued") == 20
        device.close()
        assert {visitor.response().status for visitor in visitors} == {503}


def test_a_link_that_goes_away_is_given_nothing_new() -> None:
    with serving() as server:
        device = limited(server)
        first = server.visitor()
        first.get()
        stream, _ = device.request()
        visitors = queue(server, 3)
        device.send(b"\x00\x03\x00\x00" + bytes(8))
        assert [visitor.response().status for visitor in visitors] == [503] * 3
        device.data(stream, OK_HELLO)
        assert first.response().status == 200


def test_idle_streams_are_closed_when_they_are_old() -> None:
    with serving(pool_idle_ms=60) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().status == 200
        assert device.next(stream, WINDOW).flags == RST


def test_no_more_idle_streams_than_the_limit() -> None:
    with serving(pool_streams_max=1, pool_idle_ms=600_000) as server:
        device = server.device()
        visitors = [server.visitor() for _ in range(3)]
        streams = []
        for visitor in visitors:
            visitor.get()
            streams.append(device.request()[0])
        for stream in streams:
            device.data(stream, OK_HELLO)
        assert device.next(streams[1], WINDOW).flags == RST
        assert device.next(streams[2], WINDOW).flags == RST
        visitors[0].get()
        assert device.next(streams[0], DATA).payload.startswith(b"GET ")
