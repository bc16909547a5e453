"""What one visitor, one address or one device may take of everybody's: each limit, on its own."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    DATA,
    OK_HELLO,
    RST,
    WINDOW,
    WINDOW_SIZE,
    Device,
    Response,
    Server,
    Visitor,
    serving,
    wait_for_input,
    wait_until,
)

# For tests whose visitor is not slow: a machine under load holds up its test for this long.
GRACE_MS = 1500


def serve(device: Device, visitor: Visitor, stream: int | None = None) -> int:
    """One more request answered; its stream."""
    visitor.get()
    stream, _ = device.request(stream=stream)
    device.data(stream, OK_HELLO)
    assert visitor.response().body == b"hello"
    return stream


def reaches(device: Device, visitor: Visitor) -> bool:
    """Whether a visitor's request comes to the device; if not, it is answered by the server."""
    while not wait_for_input(visitor, device):
        device.pump()
        if device.held:  # it was more than a ping
            return True
    return False


def serve_until_refused(
    server: Server, device: Device, visitor: Visitor, most: int, rate: int = 1
) -> tuple[Response, int]:
    """As many requests as come through, `most` at once and `rate` in each second that passes;
    the refusal of the next, and the stream of the others."""
    began = time.monotonic()
    stream = 0
    served = 0
    visitor.get()
    while reaches(device, visitor):
        stream, _ = device.request(stream=stream or None)
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert server.log().reason == ""
        served += 1
        assert served <= most + rate * (time.monotonic() - began)
        visitor.get()
    assert served >= most
    return visitor.response(), stream


def drip(visitor: Visitor, data: bytes, interval: float) -> None:
    """Send byte by byte until an answer comes."""
    for byte in data:
        if visitor.is_readable(interval):
            return
        try:
            visitor.send(bytes([byte]))
        except OSError:
            return


# --- slow visitors --------------------------------------------------------------------------


def test_a_head_that_drips_is_refused_though_it_never_stops() -> None:
    with serving(head_timeout_ms=200) as server:
        visitor = server.visitor()
        drip(visitor, b"GET / HTTP/1.1\r\nHost: web.test\r\nX: " + b"x" * 2000, 0.01)
        assert visitor.response().status == 408
        assert server.log().reason == "head_timeout"
        assert server.stat("head_timeouts") == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_drips_is_refused_though_it_never_stops(framing: str) -> None:
    with serving(upload_rate_min=2000, rate_grace_ms=200) as server:
        device = server.device()
        visitor = server.visitor()
        if framing == "length":
            visitor.send(b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000\r\n\r\n")
            body = b"x" * 2000
        else:
            visitor.send(b"POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n")
            body = b"1\r\nx\r\n" * 400
        stream, _ = device.request()
        drip(visitor, body, 0.01)  # a hundred bytes a second
        assert visitor.response().status == 408
        record = server.log()
        assert (record.status, record.reason) == (408, "slow_body")
        assert server.stat("slow_bodies") == 1
        while (found := device.next(stream)).type == DATA:
            pass
        assert found.flags == RST


def test_a_body_that_is_fast_enough_takes_its_time() -> None:
    with serving(upload_rate_min=100, rate_grace_ms=GRACE_MS) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 600\r\n\r\n")
        stream, _ = device.request()
        started = time.monotonic()
        for _ in range(6):
            visitor.send(b"x" * 100)  # a second's worth
            assert not visitor.is_readable(GRACE_MS / 5000)
        assert time.monotonic() - started > GRACE_MS / 1000
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert server.stat("slow_bodies") == 0


def fill_window(server: Server, device: Device, sent: int) -> tuple[Visitor, int]:
    """An upload of which so much is sent, its window used up: (visitor, its stream)."""
    visitor = server.visitor()
    size = WINDOW_SIZE + 1000
    visitor.send(
        f"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(sent)
    )
    stream = device.opened()
    device.accept(stream)
    left = WINDOW_SIZE
    while left:
        left -= device.next(stream, DATA).length
    return visitor, stream


def test_a_slow_target_is_not_held_against_the_visitor() -> None:
    with serving(upload_rate_min=1 << 30, rate_grace_ms=GRACE_MS) as server:
        device = server.device()
        visitor, stream = fill_window(server, device, WINDOW_SIZE + 1000)
        # More than the grace, with the window used up.
        assert not visitor.is_readable(GRACE_MS / 1000 + 0.2)
        device.grant(stream, 10_000)
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"


def test_a_visitor_is_slow_again_when_the_target_has_made_room() -> None:
    with serving(upload_rate_min=1 << 30, rate_grace_ms=GRACE_MS) as server:
        device = server.device()
        visitor, stream = fill_window(server, device, WINDOW_SIZE)
        assert not visitor.is_readable(GRACE_MS / 1000 + 0.2)
        device.grant(stream, 10_000)
        assert visitor.response().status == 408
        assert server.log().reason == "slow_body"


def test_a_target_that_takes_no_body_is_what_was_waited_for() -> None:
    with serving(body_timeout_ms=GRACE_MS) as server:
        device = server.device()
        visitor, _ = fill_window(server, device, WINDOW_SIZE)
        assert visitor.response().status == 504
        assert server.log().reason == "response_timeout"


def fill_link(server: Server, device: Device) -> Visitor:
    """A visitor with an upload that the link takes no more of."""
    visitor = server.visitor()
    visitor.send(b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 64000000\r\n\r\n")
    stream, _ = device.request()
    device.grant(stream, 64_000_000)
    visitor.sock.setblocking(False)
    seen: list[int] = []

    def is_stuck() -> bool:
        with suppress(BlockingIOError):
            while True:
                visitor.sock.send(bytes(1 << 16))
        server.settle()  # a worker that is not on a CPU is not stuck
        seen.append(server.stat("link_bytes_out"))
        return len(seen) > 100 and seen[-100] == seen[-1]

    wait_until(is_stuck)
    return visitor


def test_a_full_link_is_not_held_against_the_visitor() -> None:
    with serving(
        upload_rate_min=1 << 30, rate_grace_ms=GRACE_MS, body_timeout_ms=2 * GRACE_MS
    ) as server:
        device = server.device()
        visitor = fill_link(server, device)
        assert not visitor.is_readable(GRACE_MS / 1000 + 0.2)
        visitor.sock.setblocking(True)
        assert visitor.response().status == 504
        assert server.stat("slow_bodies") == server.stat("body_timeouts") == 0


def test_who_waits_for_a_100_is_not_slow() -> None:
    with serving(upload_rate_min=1 << 30, rate_grace_ms=GRACE_MS) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(
            b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        stream, _ = device.request()
        assert not visitor.is_readable(GRACE_MS / 1000 + 0.2)
        device.data(stream, b"HTTP/1.1 100 Continue\r\n\r\n")
        assert visitor.response().status == 100
        visitor.send(b"12345")
        device.next(stream, DATA)
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"


def stuff(device: Device, stream: int, size: int) -> None:
    """A response that is larger than what the systems in between hold."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    device.data(stream, head + bytes(8_000_000))


@pytest.mark.parametrize("whole", [True, False])
def test_a_reader_that_takes_nothing_is_cut_off(whole: bool) -> None:
    with serving(reader_timeout_ms=200) as server:
        device = server.device(window=16 << 20)
        visitor = server.visitor(receive_buffer=4096)
        visitor.get()
        stream, _ = device.request()
        stuff(device, stream, 8_000_000 if whole else 100_000_000)
        if not whole:
            # Data that goes on coming is no sign of life of the reader.
            for _ in range(40):
                device.data(stream, b"x" * 100)
                if server.stat("slow_readers"):
                    break
                time.sleep(0.02)
            assert server.log().reason == "slow_reader"
        server.wait_stat("slow_readers", 1)
        assert visitor.is_cut_off()


def test_a_reader_that_drips_is_cut_off_where_a_rate_is_asked_for() -> None:
    with serving(download_rate_min=1_000_000_000, rate_grace_ms=300) as server:
        device = server.device(window=16 << 20)
        visitor = server.visitor(receive_buffer=4096)
        visitor.get()
        stream, _ = device.request()
        stuff(device, stream, 100_000_000)
        started = time.monotonic()
        while not server.stat("slow_readers"):
            try:
                visitor.sock.recv(4096)
            except ConnectionResetError:
                break
            time.sleep(0.001)
            assert time.monotonic() - started < 10
        server.wait_stat("slow_readers", 1)
        assert server.log().reason == "slow_reader"


def test_a_tunnel_whose_visitor_reads_nothing_is_cut_off() -> None:
    with serving(reader_timeout_ms=200) as server:
        device = server.device(window=16 << 20)
        visitor = server.visitor(receive_buffer=4096)
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert visitor.response().status == 101
        device.data(stream, bytes(8_000_000))
        assert server.log().reason == "slow_reader"


# --- what a connection may ask for ----------------------------------------------------------


def test_a_connection_ends_after_its_last_request() -> None:
    with serving(connection_requests_max=3) as server:
        device = server.device()
        visitor = server.visitor()
        stream = serve(device, visitor)
        serve(device, visitor, stream)
        visitor.get()
        device.request(stream=stream)
        device.data(stream, OK_HELLO)
        answer = visitor.response()
        assert (answer.body, answer.fields["connection"]) == (b"hello", "close")
        assert visitor.rest() == b""
        assert server.stat("connections_used_up") == 1
        serve(device, server.visitor(), stream)


@pytest.mark.parametrize(
    ("options", "head", "status"),
    [
        ({"head_size_max": 1000}, "X: " + "x" * 1000, 431),
        ({"head_fields_max": 5}, "\r\n".join(f"X: {n}" for n in range(5)), 431),
        ({"request_line_size_max": 100}, "", 414),
    ],
)
def test_smaller_heads_can_be_asked_for(options: dict[str, int], head: str, status: int) -> None:
    path = "/" + "p" * 90
    with serving(**options) as server:
        visitor = server.visitor()
        visitor.send(f"GET {path} HTTP/1.1\r\nHost: web.test\r\n{head}\r\n\r\n".encode())
        assert visitor.response().status == status
        assert visitor.rest() == b""
        assert server.stat("bad_requests") == 1
        fits = server.visitor()
        fits.get("/" + "p" * 50)
        assert fits.response().status == 404


def test_a_head_is_refused_as_soon_as_it_is_too_large() -> None:
    with serving(head_size_max=1000) as server:
        visitor = server.visitor()
        visitor.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 1001)
        assert visitor.response().status == 431


@pytest.mark.parametrize("phase", ["sent at once", "later"])
def test_a_visitor_that_finishes_writing_may_be_taken_at_its_word(phase: str) -> None:
    with serving(abort_on_half_close=1) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        if phase == "later":
            stream, _ = device.request()
            visitor.sock.shutdown(1)
        else:
            visitor.sock.shutdown(1)
            stream, _ = device.request()
        while device.next(stream, WINDOW).flags != RST:
            pass
        assert visitor.rest() == b""
        assert server.log().reason == "visitor_gone"
        assert server.stat("half_close_aborts") == 1


def test_a_tunnel_may_be_closed_by_half_all_the_same() -> None:
    with serving(abort_on_half_close=1) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert visitor.response().status == 101
        visitor.sock.shutdown(1)
        device.data(stream, b"still here")
        assert visitor.take(10) == b"still here"


# --- addresses ------------------------------------------------------------------------------


def is_refused(server: Server) -> bool:
    """Whether a new connection is closed, whatever it asks for."""
    try:
        visitor = server.visitor()
        visitor.get(host="nobody.test")
        return not visitor.fill()
    except ConnectionError:
        return True


def test_an_address_has_so_many_connections_at_once() -> None:
    with serving(1, address_connections_max=3) as server:
        open_now = [server.visitor() for _ in range(3)]
        server.wait_stat("connections", 4)  # and the listener
        assert is_refused(server)
        assert server.stat("address_connections_refused") == 1
        open_now.pop().close()
        server.wait_stat("connections_closed", 1)
        assert not is_refused(server)


def test_a_link_is_no_visitor_of_its_address() -> None:
    with serving(1, address_connections_max=1) as server:
        device = server.device()
        other = server.device(tunnel=None)
        visitor = server.visitor()
        serve(device, visitor)
        assert is_refused(server)
        assert other.link != device.link


def test_an_address_may_connect_so_often() -> None:
    with serving(1, address_connection_rate=1, rate_burst_ms=3000) as server:
        began = time.monotonic()
        for _ in range(3):
            visitor = server.visitor()
            visitor.get()
            assert visitor.response().status == 404
        passed = 0
        while not is_refused(server):
            passed += 1
            assert passed <= time.monotonic() - began  # a second's worth
        assert server.stat("address_connections_refused") == 1
        wait_until(lambda: not is_refused(server))


def test_an_address_may_ask_so_often() -> None:
    with serving(1, address_request_rate=1, rate_burst_ms=3000) as server:
        device = server.device()  # its request for a link is the first
        visitor = server.visitor()
        answer, stream = serve_until_refused(server, device, visitor, 2)
        assert (answer.status, answer.fields["retry-after"]) == (429, "1")
        assert answer.fields["connection"] == "keep-alive"
        assert server.log().reason == "visitor_rate"
        assert server.stat("address_requests_refused") == 1
        # A body that nobody will read ends the connection.
        post = b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nab"
        visitor.send(post)
        while reaches(device, visitor):  # a second has passed
            visitor.send(b"cde")
            device.request(stream=stream)
            device.data(stream, OK_HELLO)
            assert visitor.response().body == b"hello"
            device.held.clear()
            visitor.send(post)
        answer = visitor.response()
        assert (answer.status, answer.fields["connection"]) == (429, "close")
        assert visitor.rest() == b""
        again = server.visitor()

        def is_served() -> bool:
            again.get()
            if reaches(device, again):
                device.request(stream=stream)
                device.data(stream, OK_HELLO)
            return again.response().status == 200

        wait_until(is_served)


def test_a_request_that_waits_is_counted_once() -> None:
    with serving(1, address_request_rate=1, device_request_rate=1, rate_burst_ms=3000) as server:
        device = server.device(streams_max=1)
        busy, waiting = server.visitor(), server.visitor()
        busy.get("/busy")
        stream, _ = device.request()
        waiting.get("/waiting")
        server.wait_stat("requests_queued", 1)
        for _ in range(5):
            device.grant(stream, 1)
        device.data(stream, OK_HELLO)
        assert busy.response().body == b"hello"
        device.request(stream=stream)
        device.data(stream, OK_HELLO)
        assert waiting.response().body == b"hello"
        assert server.stat("device_rate_refused") == 0


# --- devices --------------------------------------------------------------------------------


def test_a_device_is_asked_so_often() -> None:
    with serving(device_request_rate=1, rate_burst_ms=2000) as server:
        device = server.device()
        answer, _ = serve_until_refused(server, device, server.visitor(), 2)
        assert answer.status == 429
        assert server.stat("device_rate_refused") == 1
        assert server.log().reason == "device_rate"


def test_a_device_has_so_many_requests_at_once() -> None:
    with serving(device_requests_max=2) as server:
        device = server.device()
        visitors = [server.visitor() for _ in range(2)]
        streams = []
        for visitor in visitors:
            visitor.get()
            streams.append(device.request()[0])
        third = server.visitor()
        third.get()
        answer = third.response()
        assert (answer.status, answer.fields["retry-after"]) == (503, "2")
        assert server.log().reason == "device_busy"
        assert server.stat("device_busy_refused") == 1
        device.data(streams[0], OK_HELLO)
        assert visitors[0].response().body == b"hello"
        serve(device, third, streams[0])
        # However they end: reset, aborted, retried.
        device.reset(streams[1])
        assert visitors[1].response().status == 502
        for number in range(5):
            gone = server.visitor()
            gone.get()
            taken, _ = device.request(stream=None if number else streams[0])
            gone.abort()
            while device.next(taken, WINDOW).flags != RST:
                pass
        third.get()
        taken, _ = device.request()
        device.data(taken, OK_HELLO)
        assert third.response().body == b"hello"


def test_nothing_is_limited_by_default() -> None:
    for name in ("address_connections_max", "address_connection_rate", "address_request_rate"):
        assert core.DEFAULTS[name] == 0
    for name in ("device_request_rate", "device_requests_max", "connection_requests_max"):
        assert core.DEFAULTS[name] == 0
    with serving() as server:
        device = server.device()
        visitors = [server.visitor() for _ in range(200)]
        stream = None
        for visitor in visitors:
            stream = serve(device, visitor, stream)
