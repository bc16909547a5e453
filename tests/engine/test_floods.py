"""Devices that send much of what is of no use: the link ends, and for the right reason."""

from __future__ import annotations

import struct

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    ACK,
    CARRIERS,
    DATA,
    FIN,
    GO_AWAY,
    OK_HELLO,
    PING,
    RST,
    SYN,
    WINDOW,
    WINDOW_SIZE,
    Carrier,
    Device,
    Frame,
    Server,
    frame,
    serving,
    wait_until,
    ws_frame,
)


def ended(server: Server, device: Device, counter: str) -> str:
    """Wait for the end of the link; its reason."""
    event = server.event(core.EVENT_LINK_DOWN)
    assert event[1] == device.link
    assert server.stat(counter) == server.stat("link_protocol_errors") == 1
    # It is told, if the connection still carries it.
    found = device.read()
    while found is not None and found.type != GO_AWAY:
        found = device.read()
    assert found is None or found.length == 1
    return str(event[3])


def flood(device: Device, data: bytes) -> None:
    """Many times the limit of a second: a link that was not read for some may send so much more."""
    try:
        device.send_raw(data)
    except OSError:
        pass


@pytest.mark.parametrize("carrier", CARRIERS)
def test_pings(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        for value in range(50):
            device.send(frame(PING, SYN, 0, value))
            assert device.next(0) == Frame(PING, ACK, 0, value)
        flood(device, device.wrap(frame(PING, SYN, 0, 1) * 2000))
        assert ended(server, device, "link_ping_floods") == "ping_flood"


def test_pings_of_the_carrier() -> None:
    with serving() as server:
        device = server.device("websocket")
        flood(device, ws_frame(9, b"") * 2000)
        assert ended(server, device, "link_ping_floods") == "ping_flood"


@pytest.mark.parametrize("how", ["open", "open and reset", "open with data"])
def test_streams_opened(how: str) -> None:
    with serving(link_opens_max=100) as server:
        device = server.device()
        wire = b""
        for stream in range(3, 2003, 2):
            if how == "open with data":
                wire += frame(DATA, SYN, stream, 3, b"abc")
            else:
                wire += frame(WINDOW, SYN, stream)
            if how == "open and reset":
                wire += frame(WINDOW, RST, stream)
        flood(device, wire)
        assert ended(server, device, "link_open_floods") == "open_flood"


def test_resets() -> None:
    with serving(link_resets_max=100) as server:
        device = server.device()
        flood(device, frame(WINDOW, RST, 2) * 2000)
        assert ended(server, device, "link_reset_floods") == "reset_flood"


@pytest.mark.parametrize("stream", ["live", "unknown"])
def test_frames_without_payload(stream: str) -> None:
    with serving(link_empty_frames_max=1000) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        live, _ = device.request()
        device.send(frame(WINDOW, 0, live, 1) * 500)  # silly, but allowed
        device.data(live, OK_HELLO)
        assert visitor.response().body == b"hello"
        flood(device, frame(WINDOW, 0, live if stream == "live" else live + 2, 1) * 20_000)
        assert ended(server, device, "link_frame_floods") == "frame_flood"


def test_control_records() -> None:
    with serving(link_records_max=100) as server:
        device = server.device()
        device.open_control()
        wire = struct.pack(">I", 2) + b"{}"
        flood(device, frame(DATA, 0, 1, 2000 * len(wire), 2000 * wire))
        assert ended(server, device, "link_control_floods") == "control_flood"


def test_data_for_streams_that_never_were() -> None:
    with serving(link_surplus_max=100_000) as server:
        device = server.device()
        flood(device, frame(DATA, 0, 1000, 60_000, bytes(60_000)) * 20)
        assert ended(server, device, "link_data_floods") == "data_flood"


def test_what_was_on_its_way_to_visitors_that_left_is_no_flood() -> None:
    # Whole windows of many streams, all reset before their data comes.
    with serving(link_surplus_max=0) as server:
        device = server.device()
        streams = []
        for _ in range(20):
            visitor = server.visitor()
            visitor.get()
            stream, _ = device.request()
            streams.append(stream)
            visitor.abort()
        for stream in streams:
            while device.next(stream, WINDOW).flags != RST:
                pass
        for stream in streams:
            device.data(stream, bytes(WINDOW_SIZE))
        device.send(frame(PING, SYN, 0, 9))
        assert device.next(0) == Frame(PING, ACK, 0, 9)
        assert server.stat("link_unknown_stream_frames") >= 20  # windows are sent in frames
        # One byte more was never allowed.
        device.data(streams[0], b"x")
        assert ended(server, device, "link_data_floods") == "data_flood"


def test_the_rest_of_a_frame_whose_visitor_left_is_no_flood() -> None:
    with serving(link_surplus_max=0) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        whole = frame(DATA, 0, stream, 50_000, bytes(50_000))
        device.send_raw(whole[:1000])
        visitor.take_head()
        visitor.abort()
        server.wait_stat("requests_aborted", 1)
        device.send_raw(whole[1000:])
        device.data(stream, bytes(10_000))
        device.send(frame(PING, SYN, 0, 9))
        assert device.next(0) == Frame(PING, ACK, 0, 9)


def test_a_busy_honest_device_is_far_from_every_limit() -> None:
    # A target that closes after each response: a stream, an ACK and a FIN per request.
    limits = {"link_opens_max": 1, "link_resets_max": 1, "link_pings_max": 1, "link_records_max": 1}
    with serving(**limits, link_surplus_max=0, link_empty_frames_max=1000) as server:
        device = server.device()
        visitor = server.visitor()
        for _ in range(100):
            visitor.get()
            stream, _ = device.request()
            device.data(stream, OK_HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
            device.send(frame(DATA, FIN, stream))
            assert visitor.response().body == b"hello"
        wait_until(lambda: server.stat("responses") == 100)
        assert server.stat("links_closed") == 0
