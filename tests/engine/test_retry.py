"""The table of forward/retry.pxd, row by row, with a device that records what reaches it.

Two devices serve one tunnel where a second try may go elsewhere. At the end of each test
every request head that reached a device is counted: an unsafe one at most once, the others
at most twice, and never more than the row says.
"""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    ACK,
    DATA,
    OK_HELLO,
    PING,
    REFUSED,
    SYN,
    TARGET_LOST,
    Device,
    Server,
    Visitor,
    frame,
    serving,
    wait_until,
)

HEAD = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS) (/\S*) HTTP/1.1\r\nHost: web.test")


def deliveries(*devices: Device) -> Counter[str]:
    """How often each path reached the devices, in all that has been sent to them so far."""
    found: Counter[str] = Counter()
    for device in devices:
        if device.sock.fileno() < 0:
            continue
        device.send(frame(PING, SYN, 0, 77))
        pieces: dict[int, bytes] = {}
        held, device.held = device.held, []
        for kept in held:
            pieces[kept.stream] = pieces.get(kept.stream, b"") + kept.payload
        while True:
            read = device.read()
            assert read is not None
            if read.type == PING and read.flags & ACK:
                break
            pieces[read.stream] = pieces.get(read.stream, b"") + read.payload
        for payload in pieces.values():
            found.update(path.decode() for path in HEAD.findall(payload))
    return found


class Recorder:
    """Requests that the test has taken off a device itself."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def take(
        self, device: Device, *, stream: int | None = None, accept: bool = True
    ) -> tuple[int, bytes]:
        stream, data = device.request(stream=stream, accept=accept)
        self.seen.update(path.decode() for path in HEAD.findall(data))
        return stream, data

    def total(self, *devices: Device) -> Counter[str]:
        return self.seen + deliveries(*devices)


def body_of(device: Device, stream: int, data: bytes, size: int) -> bytes:
    body = data.partition(b"\r\n\r\n")[2]
    while len(body) < size:
        body += device.next(stream, DATA).payload
    return body


def send(visitor: Visitor, method: str, path: str, body: bytes = b"", fields: str = "") -> None:
    length = f"Content-Length: {len(body)}\r\n" if body or method in ("POST", "PUT") else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: web.test\r\n{length}{fields}\r\n"
    visitor.send(head.encode() + body)


def idle_stream(server: Server, device: Device, recorder: Recorder) -> tuple[Visitor, int]:
    """A visitor, and a stream that has served it and waits in the pool."""
    visitor = server.visitor()
    visitor.get("/first")
    stream, _ = recorder.take(device)
    device.data(stream, OK_HELLO)
    assert visitor.response().body == b"hello"
    server.log()
    return visitor, stream


def fail(device: Device, stream: int, how: str) -> None:
    if how == "fin":
        device.fin(stream)
    else:
        device.reset(stream, TARGET_LOST)


SAFE = [("GET", 0), ("HEAD", 0), ("DELETE", 0), ("OPTIONS", 0), ("PUT", 100), ("PUT", 60_000)]
UNSAFE = [("POST", 0), ("POST", 100), ("PATCH", 100)]


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize(("method", "size"), SAFE)
def test_an_idempotent_request_on_a_reused_stream_goes_out_once_more(
    method: str, size: int, how: str
) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        send(visitor, method, "/it", body)
        _, data = recorder.take(device, stream=stream)
        assert body_of(device, stream, data, size) == body
        fail(device, stream, how)
        other, data = recorder.take(device)
        assert other != stream
        assert body_of(device, other, data, size) == body
        device.data(other, OK_HELLO)
        assert visitor.response(is_head=method == "HEAD").status == 200
        record = server.log()
        assert (record.flags, record.bytes_in > size) == (core.LOG_RETRIED, True)
        assert server.stat("requests_retried") == server.stat("idle_streams_lost") == 1
        assert recorder.total(device)["/it"] == 2


@pytest.mark.parametrize("cut", [1, 17, 4000])
def test_a_body_still_under_way_is_sent_from_its_start(cut: int) -> None:
    body = b"".join(b"%5d" % index for index in range(2000))
    chunks = b"%x\r\n%b\r\n" % (len(body), body) + b"0\r\n\r\n"
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        visitor.send(b"PUT /it HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        visitor.send(chunks[:cut])
        _, data = recorder.take(device, stream=stream)
        assert body_of(device, stream, data, cut) == chunks[:cut]
        device.reset(stream)
        other, data = recorder.take(device)
        visitor.send(chunks[cut:])
        assert body_of(device, other, data, len(chunks)) == chunks
        device.data(other, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert recorder.total(device)["/it"] == 2


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize(("method", "size"), UNSAFE)
def test_an_unsafe_request_on_a_reused_stream_is_never_sent_twice(
    method: str, size: int, how: str
) -> None:
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        send(visitor, method, "/it", b"x" * size)
        recorder.take(device, stream=stream)
        fail(device, stream, how)
        assert visitor.response().status == 502
        assert server.log().reason == "target_lost"
        assert recorder.total(device)["/it"] == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_that_is_too_big_to_keep_is_not_sent_twice(framing: str) -> None:
    body = b"x" * 70_000
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        if framing == "length":
            send(visitor, "PUT", "/it", body)
            size = len(body)
        else:
            chunk = b"%x\r\n%b\r\n" % (len(body), body)
            visitor.send(
                b"PUT /it HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk
            )
            size = len(chunk)
        _, data = recorder.take(device, stream=stream)
        body_of(device, stream, data, size)
        device.reset(stream)
        assert visitor.response().status == 502
        assert recorder.total(device)["/it"] == 1


@pytest.mark.parametrize("answer", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_any_byte_of_a_response_forbids_a_second_try(answer: bytes) -> None:
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        visitor.get("/it")
        recorder.take(device, stream=stream)
        device.data(stream, answer)
        device.fin(stream)
        response = visitor.response()
        if response.status == 100:
            response = visitor.response()
        assert response.status == 502
        assert recorder.total(device)["/it"] == 1


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_fresh_stream_that_fails_is_not_tried_again(how: str) -> None:
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor = server.visitor()
        visitor.get("/it")
        stream, _ = recorder.take(device)
        fail(device, stream, how)
        assert visitor.response().status == 502
        assert recorder.total(device)["/it"] == 1


def test_the_second_try_is_the_last() -> None:
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitors = [server.visitor() for _ in range(2)]
        for visitor in visitors:
            visitor.get("/first")
        streams = [recorder.take(device)[0] for _ in visitors]
        for stream in streams:  # whosever it is
            device.data(stream, OK_HELLO)
        for visitor in visitors:
            visitor.response()
        visitor = visitors[0]
        visitor.get("/it")
        stream, _ = recorder.take(device, stream=streams[1])  # last in, first out
        device.reset(stream)
        fresh, _ = recorder.take(device)
        assert fresh not in streams
        device.reset(fresh, REFUSED)
        assert visitor.response().status == 502
        assert recorder.total(device)["/it"] == 2


@pytest.mark.parametrize(("method", "size"), [("GET", 0), ("POST", 50_000)])
def test_what_the_agent_refused_goes_to_another_link(method: str, size: int) -> None:
    body = b"b" * size
    with serving() as server:
        first, second = server.device(), server.device(tunnel=None)
        recorder = Recorder()
        visitor = server.visitor()
        send(visitor, method, "/it", body)
        stream, data = recorder.take(first, accept=False)
        body_of(first, stream, data, size)
        server.route("web", first, second)
        server.settle()
        first.reset(stream, REFUSED)
        stream, data = recorder.take(second)
        assert body_of(second, stream, data, size) == body
        second.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert server.log().flags == core.LOG_RETRIED
        assert recorder.total(first, second)["/it"] == 2  # streams; none reached a target


def test_what_the_only_agent_refuses_twice_is_answered_502() -> None:
    with serving() as server:
        device = server.device()
        recorder = Recorder()
        visitor = server.visitor()
        send(visitor, "POST", "/it", b"body")
        for _ in range(2):
            stream, _ = recorder.take(device, accept=False)
            device.reset(stream, REFUSED)
        assert visitor.response().status == 502
        assert server.log().reason == "refused"
        assert recorder.total(device)["/it"] == 2


@pytest.mark.parametrize("who", ["stock", "accepted", "reused"])
def test_a_refusal_that_may_come_too_late_is_not_believed(who: str) -> None:
    with serving() as server:
        device = server.device(preamble=who != "stock")
        recorder = Recorder()
        stream = None
        if who == "reused":
            visitor, stream = idle_stream(server, device, recorder)
        else:
            visitor = server.visitor()
        send(visitor, "POST", "/it", b"body")
        stream, _ = recorder.take(device, stream=stream, accept=who == "accepted")
        device.reset(stream, REFUSED)
        assert visitor.response().status == 502
        assert recorder.total(device)["/it"] == 1


@pytest.mark.parametrize(("method", "retried"), [("GET", True), ("PUT", True), ("POST", False)])
def test_a_lost_link_under_a_reused_stream(method: str, retried: bool) -> None:
    with serving() as server:
        first, second = server.device(), server.device(tunnel=None)
        recorder = Recorder()
        visitor, stream = idle_stream(server, first, recorder)
        send(visitor, method, "/it", b"" if method == "GET" else b"body")
        recorder.take(first, stream=stream)
        server.route("web", first, second)
        server.settle()
        first.close()
        if retried:
            stream, _ = recorder.take(second)
            second.data(stream, OK_HELLO)
            assert visitor.response().body == b"hello"
        else:
            assert visitor.response().status == 502
            assert server.log().reason == "link_lost"
        assert recorder.total(second)["/it"] == 1 + retried


def test_a_lost_link_under_a_fresh_stream_is_told() -> None:
    with serving() as server:
        first, second = server.device(), server.device(tunnel=None)
        recorder = Recorder()
        visitor = server.visitor()
        visitor.get("/it")
        recorder.take(first)
        server.route("web", first, second)
        server.settle()
        first.close()
        assert visitor.response().status == 502
        assert recorder.total(second)["/it"] == 1


def block(server: Server, device: Device) -> Visitor:
    """Upload until the link's socket takes no more; the device reads nothing."""
    uploader = server.visitor()
    size = 64 << 20
    uploader.send(f"PUT /big HTTP/1.1\r\nHost: web.test\r\nContent-Length: {size}\r\n\r\n".encode())
    stream, _ = device.request()
    device.grant(stream, size)
    sent = 0

    def is_stuck() -> bool:
        # A few frames at a time, so that the link's queue never gets full.
        nonlocal sent
        before = server.stat("link_bytes_out")
        uploader.send(b"x" * 16_384)
        sent += 16_384
        for _ in range(100):
            if server.stat("link_bytes_out") >= before + 16_384:
                return False
            server.settle()
        return True

    while not is_stuck():
        assert sent < size
    return uploader


def test_what_never_left_the_server_may_go_to_another_link_whatever_it_is() -> None:
    with serving() as server:
        first, second = server.device(), server.device(tunnel=None)
        recorder = Recorder()
        uploader = block(server, first)
        visitor = server.visitor()
        opened = server.stat("streams_opened")
        send(visitor, "POST", "/it", b"body")
        server.wait_stat("streams_opened", opened + 1)
        server.route("web", second)
        server.settle()
        first.abort()
        stream, data = recorder.take(second)
        assert body_of(second, stream, data, 4) == b"body"
        second.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert uploader.response().status == 502  # bytes of it had left
        assert recorder.total(second)["/it"] == 1


def test_a_request_that_waits_for_a_stream_outlives_its_link() -> None:
    with serving() as server:
        first, second = server.device(streams_max=1), server.device(tunnel=None)
        recorder = Recorder()
        busy = server.visitor()
        busy.get("/busy")
        recorder.take(first)
        visitor = server.visitor()
        send(visitor, "POST", "/it", b"body")
        server.wait_stat("requests_queued", 1)
        server.route("web", second)
        server.settle()
        first.close()
        stream, data = recorder.take(second)
        assert body_of(second, stream, data, 4) == b"body"
        second.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert server.log().reason == "link_lost"  # of the busy one
        assert server.log().flags == 0
        assert recorder.total(second)["/it"] == 1


# --- the learnt limit -----------------------------------------------------------------------


def server_time_us() -> int:
    return time.time_ns() // 1000


def test_unsafe_requests_avoid_streams_that_idled_half_the_limit() -> None:
    with serving(pool_idle_ms=4000) as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        # The target says that it keeps idle connections for a second.
        visitor.get("/told")
        recorder.take(device, stream=stream)
        device.data(stream, OK_HELLO.replace(b"OK\r\n", b"OK\r\nKeep-Alive: timeout=1\r\n"))
        visitor.response()
        done = server.log().time_us
        wait_until(lambda: server_time_us() > done + 450_000)
        send(visitor, "POST", "/unsafe")
        other, _ = recorder.take(device)
        assert other != stream
        device.data(other, OK_HELLO)
        visitor.response()


def test_a_stream_is_given_back_before_the_time_the_target_says() -> None:
    with serving(pool_idle_ms=600_000) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get("/told")
        stream, _ = device.request()
        device.data(stream, OK_HELLO.replace(b"OK\r\n", b"OK\r\nKeep-Alive: timeout=1, max=9\r\n"))
        visitor.response()
        done = server.log().time_us
        device.next(stream)  # RST
        assert server_time_us() - done > 790_000


def test_a_target_that_closes_idle_streams_early_is_noticed() -> None:
    with serving(pool_idle_ms=4000) as server:
        device = server.device()
        recorder = Recorder()
        _, stream = idle_stream(server, device, recorder)
        idle_since = server_time_us()
        wait_until(lambda: server_time_us() > idle_since + 150_000)
        device.fin(stream)
        server.wait_stat("idle_streams_closed", 1)
        # From now on half the time at most.
        _, stream = idle_stream(server, device, recorder)
        idle_since = server_time_us()
        while device.next(stream).flags == 0:
            pass
        assert server_time_us() - idle_since < 3_800_000


def test_no_stream_is_pooled_where_the_limit_is_zero() -> None:
    with serving(pool_idle_ms=0) as server:
        device = server.device()
        recorder = Recorder()
        visitor, stream = idle_stream(server, device, recorder)
        visitor.get("/next")
        other, _ = recorder.take(device)
        assert other != stream
        device.data(other, OK_HELLO)
        visitor.response()
