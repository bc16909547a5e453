"""Requests in flight while the device, the visitor or the link does something else."""

from __future__ import annotations

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    CANCEL,
    CARRIERS,
    DATA,
    FIN,
    OK_HELLO,
    REFUSED,
    RST,
    TARGET_LOST,
    TIMEOUT,
    UNKNOWN_TUNNEL,
    UNREACHABLE,
    WINDOW,
    WINDOW_SIZE,
    Carrier,
    Device,
    Frame,
    Server,
    frame,
    serving,
    wait_for_input,
    wait_until,
)

CHUNKED_HELLO = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def still_works(server: Server, device: Device) -> None:
    """A new visitor is served over the same link."""
    visitor = server.visitor()
    visitor.get("/again", fields="Connection: close\r\n")
    while True:
        found = device.read()
        assert found is not None, "the link was closed"
        if found.type == DATA and b"GET /again" in found.payload:
            break
    if found.payload.startswith(b"\r\n"):  # a preamble: a new stream
        device.accept(found.stream)
    device.data(found.stream, OK_HELLO)
    assert visitor.response().body == b"hello"


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("preamble", [True, False])
def test_a_request_and_its_response(carrier: Carrier, preamble: bool) -> None:
    with serving() as server:
        device = server.device(carrier, preamble=preamble)
        visitor = server.visitor()
        visitor.get("/a?b=c")
        stream, head = device.request()
        assert head.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: web.test\r\n")
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        record = server.log()
        assert (record.status, record.path, record.device, record.reason) == (200, "/a?b=c", 7, "")
        # The second one goes over the same stream.
        visitor.get("/two")
        again, head = device.request(stream=stream)
        assert again == stream
        assert head.startswith(b"GET /two ")
        device.data(stream, CHUNKED_HELLO)
        assert visitor.response().body == b"hello"
        assert server.log().flags == core.LOG_REUSED


def test_the_context_of_a_trace_passes_both_ways() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get(fields=f"traceparent: {trace}\r\ntracestate: a=1,b=2\r\n")
        stream, head = device.request()
        assert f"\r\ntraceparent: {trace}\r\ntracestate: a=1,b=2\r\n".encode() in head
        answer = b"HTTP/1.1 200 OK\r\ntraceresponse: " + trace.encode() + b"\r\n"
        device.data(stream, answer + b"Content-Length: 0\r\n\r\n")
        assert visitor.response().fields["traceresponse"] == trace


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("response", [OK_HELLO, CHUNKED_HELLO], ids=["length", "chunked"])
def test_a_response_split_at_every_byte(carrier: Carrier, response: bytes) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor()
        stream = None
        for cut in range(1, len(response)):
            visitor.get(f"/{cut}")
            stream, _ = device.request(stream=stream)
            device.data(stream, response[:cut])
            device.data(stream, response[cut:])
            assert visitor.response().body == b"hello"
        assert server.stat("streams_opened") == 1


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_response_in_frames_of_one_byte(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        response = OK_HELLO.replace(b"OK\r\n", b"OK\r\nX-Long: " + b"x" * 1000 + b"\r\n")
        for byte in response:
            device.data(stream, bytes([byte]))
        answer = visitor.response()
        assert (answer.body, answer.fields["x-long"]) == (b"hello", "x" * 1000)


HEAD_SIZE = OK_HELLO.index(b"hello")


@pytest.mark.parametrize("how", ["reset", "fin"])
@pytest.mark.parametrize("sent", [*range(0, HEAD_SIZE, 7), HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 3])
def test_a_stream_that_ends_before_its_response(how: str, sent: int) -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        if sent:
            device.data(stream, OK_HELLO[:sent])
        if how == "reset":
            device.reset(stream)
        else:
            device.fin(stream)
        if sent < HEAD_SIZE:
            assert visitor.response().status == 502
            assert server.log().reason == "target_lost"
        else:
            visitor.take_head()
            assert len(visitor.rest()) == sent - HEAD_SIZE  # shorter than announced, then the end
            record = server.log()
            assert (record.status, record.flags) == (200, core.LOG_ABORTED)
        if how == "fin":
            assert device.next(stream, WINDOW).flags == RST  # our half is given back too
        still_works(server, device)


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_stream_that_ends_after_its_response_is_not_reused(how: str) -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        if how == "reset":
            device.reset(stream)
        else:
            device.fin(stream)
        assert visitor.response().body == b"hello"
        # Whether the engine has seen the end already or not, the next request is served.
        visitor.get("/next")
        other = device.opened()
        assert other != stream
        device.accept(other)
        device.data(other, OK_HELLO)
        assert visitor.response().body == b"hello"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (CANCEL, 502, "target_lost"),
        (REFUSED, 502, "refused"),
        (UNREACHABLE, 502, "unreachable"),
        (TIMEOUT, 504, "target_timeout"),
        (UNKNOWN_TUNNEL, 502, "unknown_target"),
        (TARGET_LOST, 502, "target_lost"),
        (0xFFFFFFFF, 502, "target_lost"),
    ],
)
def test_reset_codes_become_answers(code: int, status: int, reason: str) -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        for _ in range(2 if code == REFUSED else 1):  # nothing reached a target: tried again
            stream, _ = device.request(accept=False)
            device.reset(stream, code)
        assert visitor.response().status == status
        assert server.log().reason == reason


def test_a_pooled_stream_that_breaks_is_replaced_once() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get("/1")
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        visitor.response()
        visitor.get("/2")
        device.request(stream=stream)
        device.reset(stream)
        other, head = device.request()
        assert head.startswith(b"GET /2 ")
        device.data(other, OK_HELLO)
        assert visitor.response().body == b"hello"
        server.log()
        assert server.log().flags == core.LOG_RETRIED
        # A POST is not idempotent: it is told.
        visitor.send(b"POST /3 HTTP/1.1\r\nHost: web.test\r\nContent-Length: 0\r\n\r\n")
        device.request(stream=other)
        device.reset(other)
        assert visitor.response().status == 502


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("phase", ["opening", "accepted", "head", "body", "idle", "tunnel"])
def test_a_link_that_ends_in_every_phase(carrier: Carrier, how: str, phase: str) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request(accept=phase != "opening")
        if phase == "head":
            device.data(stream, OK_HELLO[:10])
        elif phase == "body":
            device.data(stream, OK_HELLO[:-2])
            visitor.take_head()
        elif phase == "idle":
            device.data(stream, OK_HELLO)
            visitor.response()
        elif phase == "tunnel":
            device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            assert visitor.response().status == 101
        if how == "close":
            device.close()
        else:
            device.abort()
        down = server.event(core.EVENT_LINK_DOWN)
        assert down[1:3] == (device.link, 7)
        assert down[3] in ("closed", "connection_lost")
        if phase in ("opening", "accepted", "head"):
            assert visitor.response().status == 502
        elif phase in ("body", "tunnel"):
            visitor.is_cut_off()
            assert server.log().flags & core.LOG_ABORTED
            return
        visitor.get()
        assert visitor.response().status == 503
        if phase != "idle":
            assert server.log().reason == "link_lost"


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(
    "phase", ["nothing", "part of a head", "waiting", "part of a body", "response", "tunnel"]
)
def test_a_visitor_that_goes_in_every_phase(how: str, phase: str) -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        stream = 0
        if phase == "part of a head":
            visitor.send(b"GET / HT")
        elif phase == "part of a body":
            visitor.send(b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 9\r\n\r\nabc")
            stream, _ = device.request()
        elif phase != "nothing":
            visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
            stream, _ = device.request()
        if phase == "response":
            device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nabc")
            visitor.take_head()
        elif phase == "tunnel":
            device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            visitor.take_head()
        closed = server.stat("connections_closed")
        if how == "close":
            visitor.close()
        else:
            visitor.abort()
        if how == "close" and phase == "tunnel":
            assert device.next(stream, DATA) == Frame(DATA, FIN, stream, 0)
            device.fin(stream)
        elif how == "close" and phase == "waiting":
            # Half a close may be meant: the answer is still sent.
            device.data(stream, OK_HELLO)
        elif how == "close" and phase == "response":
            while not server.stat("requests_aborted"):
                taken = server.stat("link_bytes_in")
                device.data(stream, b"x" * 1000)
                server.wait_stat("link_bytes_in", taken + 1000)  # or it may be beyond the window
        server.wait_stat("connections_closed", closed + 1)
        if stream and not (how == "close" and phase in ("tunnel", "waiting")):
            found = device.next(stream, WINDOW)
            while found.flags == 0:  # credit that was on its way
                found = device.next(stream, WINDOW)
            assert (found.flags, found.length) == (RST, CANCEL)
            assert server.log().reason == "visitor_gone"
        still_works(server, device)


def test_heads_in_one_gather_do_not_share_their_place() -> None:
    # One read of the link: a body still under way for one visitor, then two heads and many
    # small chunks for another. All of them stand in one arena until they are sent.
    with serving() as server:
        device = server.device()
        first, second = server.visitor(), server.visitor()
        first.get("/first")
        one, _ = device.request()
        second.get("/second")
        two, _ = device.request()
        filler = b"X-Filler: " + b"f" * 300 + b"\r\n"
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"a" * 200 + b">\r\n\r\n"
        final = b"HTTP/1.1 200 OK\r\nX-Final: " + b"b" * 200 + b"\r\n\r\n"
        pieces = [bytes([65 + index % 26]) * 3000 for index in range(40)]
        head = b"HTTP/1.1 200 OK\r\n" + filler + b"Content-Length: 10\r\n\r\nstart"
        frames = [frame(DATA, 0, one, len(head), head)]
        frames += [frame(DATA, 0, two, len(part), part) for part in (interim, final, *pieces)]
        frames += [frame(DATA, FIN, two), frame(DATA, 0, one, 5, b"ended")]
        device.send(*frames)
        answer = second.response()
        assert (answer.status, answer.fields) == (103, {"link": "<" + "a" * 200 + ">"})
        answer = second.response()
        assert answer.fields["x-final"] == "b" * 200
        assert answer.body == b"".join(pieces)
        assert first.response().body == b"startended"


@pytest.mark.parametrize("minor", [0, 1])
def test_interim_responses_are_relayed_to_who_knows_them(minor: int) -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(f"GET / HTTP/1.{minor}\r\nHost: web.test\r\n\r\n".encode())
        stream, _ = device.request()
        device.data(
            stream, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK_HELLO
        )
        if minor:
            assert visitor.response().status == 100
            assert visitor.response().status == 103
        assert visitor.response().body == b"hello"


def test_a_continue_is_waited_for_with_the_body() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(
            b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        stream, head = device.request()
        assert b"100-continue" in head
        device.data(stream, b"HTTP/1.1 100 Continue\r\n\r\n")
        assert visitor.response().status == 100
        visitor.send(b"12345")
        assert device.next(stream, DATA).payload == b"12345"
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"


def take_body(device: Device, stream: int, size: int) -> bytes:
    body = b""
    while len(body) < size:
        body += device.next(stream, DATA).payload
    return body


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_upload_stops_at_the_window_and_goes_on_with_it(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor()
        size = WINDOW_SIZE + 100_000
        body = bytes(range(256)) * (size // 256 + 1)
        body = body[:size]
        visitor.sock.setblocking(False)
        pending = memoryview(
            f"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {size}\r\n\r\n".encode() + body
        )

        def push() -> None:
            nonlocal pending
            try:
                while pending:
                    pending = pending[visitor.sock.send(pending) :]
            except BlockingIOError:
                pass

        push()
        stream = device.opened()
        device.accept(stream)
        # The whole window and not a byte more: preamble, head and body together.
        received = b""
        while len(received) < WINDOW_SIZE:
            push()
            received += device.next(stream, DATA).payload
        assert len(received) == WINDOW_SIZE
        server.engine.link_send(device.link, b"{}")  # something that surely comes later
        push()
        device.send(frame(2, 1, 0, 5))  # ... and a ping behind it
        found = device.read()
        assert found == Frame(2, 2, 0, 5), "no data without window"
        device.grant(stream, 10_000)
        more = take_body(device, stream, 10_000)
        assert len(more) == 10_000
        device.grant(stream, 1 << 20)
        received += more
        while not received.endswith(body):
            push()
            received += device.next(stream, DATA).payload
        device.data(stream, OK_HELLO)
        visitor.sock.settimeout(10)
        assert visitor.response().body == b"hello"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_slow_visitor_is_granted_exactly_what_it_took(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor(receive_buffer=4096)
        visitor.get()
        stream, _ = device.request()
        # A whole window, then nothing more may be sent.
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
        body = bytes(WINDOW_SIZE - len(head))
        device.data(stream, head + body)
        sent = len(head) + len(body)
        granted = 0
        total = 10_000_000
        left = total - len(body)
        visitor.take_head()
        taken = len(visitor.received)
        visitor.received.clear()
        while left:
            if not device.held:
                if wait_for_input(device, visitor):
                    device.pump()
                else:
                    # Nothing to read for the device: the visitor takes a little.
                    taken += len(visitor.sock.recv(65536))
                continue
            found = device.next(stream, WINDOW)
            assert found.flags == 0
            assert found.length >= WINDOW_SIZE // 4
            granted += found.length
            assert granted <= sent
            # Never more than the visitor's system took off the engine: what we read and what
            # its buffers and the engine's socket hold.
            assert granted <= taken + len(head) + 8_000_000
            size = min(left, granted + WINDOW_SIZE - sent)
            if size:
                device.data(stream, bytes(size))
                sent += size
                left -= size
        rest = total - taken
        while rest > 0:
            data = visitor.sock.recv(1 << 20)
            assert data, "the response was cut off"
            rest -= len(data)
        record = server.log()
        assert (record.status, record.reason) == (200, "")
        wait_until(lambda: server.stat("buffer_bytes") == 0)


def test_who_asks_for_no_more_is_closed_at_once_and_others_are_waited_for() -> None:
    with serving(linger_timeout_ms=60_000, keepalive_timeout_ms=60_000) as server:
        device = server.device()
        patient = server.visitor()
        patient.get(fields="Connection: close\r\n")
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        # Its side stays open, and ours is gone all the same.
        server.wait_stat("connections_closed", 1)
        assert patient.response().body == b"hello"
        assert patient.rest() == b""
        # Here something is left to be read off, or a reset would overtake the answer.
        hasty = server.visitor()
        hasty.send(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\nmore")
        device.request(stream=stream)
        device.data(stream, OK_HELLO)
        assert hasty.response().body == b"hello"
        assert hasty.rest() == b""
        assert server.stat("connections_closed") == 1
        hasty.close()
        server.wait_stat("connections_closed", 2)


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_a_slow_reader_gets_all_of_it_whatever_the_idle_time(close: bool) -> None:
    # The response is complete for the engine long before its reader has it.
    options = {"linger_timeout_ms": 50, "keepalive_timeout_ms": 500, "body_timeout_ms": 20_000}
    size = 8 << 20
    with serving(**options) as server:
        device = server.device(window=16 << 20)
        visitor = server.visitor(receive_buffer=4096)
        visitor.get(fields="Connection: close\r\n" if close else "")
        stream, _ = device.request()
        device.data(stream, f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        device.data(stream, bytes(size))
        assert server.log().status == 200
        # Others come and are closed for idling, and again, before it takes a byte.
        for _ in range(3):
            assert server.visitor().rest() == b""
        assert len(visitor.response().body) == size
        assert visitor.rest() == b""


def test_a_reader_that_takes_nothing_is_cut_off_and_told_so() -> None:
    with serving(reader_timeout_ms=200) as server:
        device = server.device(window=16 << 20)
        visitor = server.visitor(receive_buffer=4096)
        visitor.get(fields="Connection: close\r\n")
        stream, _ = device.request()
        device.data(
            stream, b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + bytes(8_000_000)
        )
        server.wait_stat("connections_closed", 1)
        assert visitor.is_cut_off()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_tunnel_closes_one_side_at_a_time(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        visitor.send(b"early")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst")
        assert visitor.response().status == 101
        assert visitor.take(5) == b"first"
        assert take_body(device, stream, 5) == b"early"
        device.fin(stream)
        assert visitor.rest() == b""
        visitor.send(b"still here")
        assert take_body(device, stream, 10) == b"still here"
        visitor.close()
        assert device.next(stream, DATA).flags == FIN
        record = server.log()
        assert (record.status, record.flags) == (101, core.LOG_TUNNEL)


def test_a_tunnel_that_breaks_does_not_look_finished() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhalf")
        assert visitor.response().status == 101
        assert visitor.take(4) == b"half"
        device.reset(stream)
        assert visitor.is_cut_off()
        record = server.log()
        assert (record.flags, record.reason) == (core.LOG_TUNNEL | core.LOG_ABORTED, "target_lost")


def test_a_visitor_that_pipelines_is_answered_in_order() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        heads = [f"GET /{n} HTTP/1.1\r\nHost: web.test\r\n\r\n".encode() for n in range(10)]
        visitor.send(b"".join(heads))
        stream = None
        for number in range(10):
            stream, head = device.request(stream=stream)
            assert head.startswith(f"GET /{number} ".encode())
            device.data(stream, OK_HELLO.replace(b"hello", f"he{number}lo".encode()))
        assert [visitor.response().body for _ in range(10)] == [
            f"he{number}lo".encode() for number in range(10)
        ]


def test_surplus_on_an_idle_stream_is_no_response() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get("/1")
        stream, _ = device.request()
        device.data(stream, OK_HELLO + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert visitor.response().body == b"hello"
        visitor.get("/2")
        other, _ = device.request()
        assert other != stream
        device.data(other, OK_HELLO)
        assert visitor.response().body == b"hello"
        device.data(other, b"evil")
        server.wait_stat("stream_surplus", 2)


def test_surplus_that_is_still_on_its_way_in_the_same_frame_is_no_response() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get("/1")
        stream, _ = device.request()
        payload = OK_HELLO + b"evil"
        data = frame(DATA, 0, stream, len(payload), payload)
        device.send_raw(data[:-4])
        assert visitor.response().body == b"hello"
        visitor.get("/2")
        server.wait_stat("stream_surplus", 1)
        device.send_raw(data[-4:])
        other, _ = device.request()
        assert other != stream
        device.data(other, OK_HELLO)
        assert visitor.response().body == b"hello"


# --- limits and clocks ----------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_over_the_limit_is_refused_and_ends_the_connection(
    framing: str, at_once: bool
) -> None:
    with serving(body_size_max=10) as server:
        device = server.device()
        visitor = server.visitor()
        if framing == "length":
            head = b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 11\r\n\r\n"
            body = b"x" * 11
        else:
            head = b"POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n"
            body = b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
        if at_once:
            visitor.send(head + body)
        else:
            visitor.send(head)
            if framing == "chunked":
                device.request()
            visitor.send(body)
        answer = visitor.response()
        assert answer.status == 413
        assert answer.fields["connection"] == "close"
        assert visitor.rest() == b"", "the body's rest is not read as a request"
        assert server.log().reason == "body_too_large"
        assert server.stat("requests") == 2  # the device's own, and this one


def test_a_body_of_just_the_limit_passes() -> None:
    with serving(body_size_max=10) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(
            b"POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n"
        )
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"


def test_a_head_that_takes_too_long_is_answered_408() -> None:
    with serving(head_timeout_ms=60) as server:
        visitor = server.visitor()
        visitor.send(b"GET / HTTP/1.1\r\nHost: ")
        assert visitor.response().status == 408
        assert visitor.rest() == b""


def test_an_idle_connection_is_closed_without_a_word() -> None:
    with serving(keepalive_timeout_ms=1000) as server:
        fresh = server.visitor()
        used = server.visitor()
        used.get()
        assert used.response().status == 404
        assert fresh.rest() == used.rest() == b""


@pytest.mark.parametrize("preamble", [True, False])
def test_a_missing_ack_is_only_our_own_agents_fault(preamble: bool) -> None:
    with serving(open_timeout_ms=80, response_timeout_ms=2000) as server:
        device = server.device(preamble=preamble)
        visitor = server.visitor()
        visitor.get()
        device.request(accept=False)
        assert visitor.response().status == 504
        took_ms = server.log().total_us // 1000
        assert (took_ms < 2000) == preamble


def test_a_body_that_stops_coming_is_answered_408() -> None:
    with serving(body_timeout_ms=80) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nab")
        stream, _ = device.request()
        assert visitor.response().status == 408
        assert device.next(stream, WINDOW).flags == RST


def test_a_response_body_that_stops_coming_is_cut_off() -> None:
    with serving(body_timeout_ms=80) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.send(b"GET / HTTP/1.0\r\nHost: web.test\r\n\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 200 OK\r\n\r\nhalf")
        visitor.take_head()
        assert visitor.is_cut_off(), "an end without a length must not look like one"
        record = server.log()
        assert record.reason == "body_timeout"
        assert record.flags & core.LOG_HTTP10


def test_a_tunnel_that_is_silent_is_closed() -> None:
    with serving(tunnel_timeout_ms=80) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert visitor.response().status == 101
        visitor.is_cut_off()
        assert server.log().reason == "tunnel_timeout"


def test_a_refused_visitor_that_goes_on_sending_still_reads_the_answer() -> None:
    with serving() as server:
        visitor = server.visitor()
        visitor.send(b"BAD\x00 / HTTP/1.1\r\n\r\n")
        visitor.send(b"x" * 1000)
        assert visitor.response().status == 400
        visitor.send(b"y" * 1000)
        assert visitor.rest() == b""
        visitor.close()
        wait_until(lambda: server.connections() == 0)


def test_a_visitor_that_never_stops_sending_is_not_listened_to_for_long() -> None:
    with serving() as server:
        visitor = server.visitor()
        visitor.send(b"BAD\x00 / HTTP/1.1\r\n\r\n")
        with pytest.raises(OSError):
            while True:
                visitor.send(b"x" * 10_000)
