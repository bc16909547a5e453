"""Links: the handshake, both carriers, the control stream, pings, refusals and drain."""

from __future__ import annotations

import json
import socket
import struct
import time

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    ACK,
    CARRIERS,
    DATA,
    GO_AWAY,
    OK_HELLO,
    PING,
    REFUSED,
    RST,
    SYN,
    WINDOW,
    Carrier,
    Device,
    Frame,
    Server,
    frame,
    serving,
    wait_until,
    ws_frame,
)


def down_reason(server: Server, device: Device) -> str:
    event = server.event(core.EVENT_LINK_DOWN)
    assert event[1] == device.link
    return event[3]


# --- handshake ----------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
def test_bytes_right_behind_the_upgrade_request_are_part_of_the_link(carrier: Carrier) -> None:
    control = frame(WINDOW, SYN, 1) + frame(DATA, 0, 1, 6, b"\x00\x00\x00\x02{}")
    early = control if carrier == "raw" else ws_frame(2, control)
    for cut in (0, 1, 5, 13, len(early)):
        with serving() as server:
            device = server.device(carrier, early=early[:cut])
            device.send_raw(early[cut:])
            assert device.next(1) == Frame(WINDOW, ACK, 1, 0)
            assert server.event(core.EVENT_CONTROL) == (core.EVENT_CONTROL, device.link, b"{}")


def test_early_bytes_that_break_the_protocol_end_the_link_at_once() -> None:
    with serving() as server:
        device = server.device(early=b"\x77" * 40)
        assert down_reason(server, device) == "bad_yamux"
        assert device.next(0).type == GO_AWAY
        assert device.closed()


def test_how_long_a_link_lived_is_told_in_fractions_of_a_second() -> None:
    with serving() as server:
        started = time.monotonic()
        device = server.device()
        time.sleep(0.02)
        device.close()
        *_, seconds = server.event(core.EVENT_LINK_DOWN)
        assert isinstance(seconds, float)
        assert 0.01 < seconds < time.monotonic() - started + 0.01


def test_the_control_plane_may_be_too_late() -> None:
    with serving(auth_timeout_ms=60) as server:
        sock, ticket = server.knock()
        sock.settimeout(10)
        answer = b""
        while data := sock.recv(4096):
            answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert json.loads(body)["error"] == "auth_timeout"
        # The answer comes while it lingers, and again when it is gone.
        server.engine.auth_reply(ticket, b"HTTP/1.1 101 S\r\n\r\n", accept=True)
        sock.close()
        wait_until(lambda: server.connections() == 0)
        server.engine.auth_reply(ticket, b"HTTP/1.1 101 S\r\n\r\n", accept=True)
        visitor = server.visitor()
        visitor.get()
        assert visitor.response().status == 404
        assert server.stat("links_opened") == 0


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_device_that_did_not_wait_for_its_answer(how: str) -> None:
    with serving() as server:
        sock, ticket = server.knock()
        if how == "abort":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        if how == "abort":
            wait_until(lambda: server.connections() == 0)
        server.engine.auth_reply(ticket, b"HTTP/1.1 101 S\r\n\r\n", accept=True)
        wait_until(lambda: server.connections() == 0)
        server.settle()
        wait_until(lambda: server.connections() == 0)
        opened, closed = server.stat("links_opened"), server.stat("links_closed")
        assert opened == closed
        if opened:
            server.event(core.EVENT_LINK_UP)
            server.event(core.EVENT_LINK_DOWN)


def test_a_refusal_is_passed_on_as_it_is() -> None:
    with serving() as server:
        sock, ticket = server.knock()
        refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"
        server.engine.auth_reply(ticket, refusal, accept=False)
        sock.settimeout(10)
        answer = b""
        while data := sock.recv(4096):
            answer += data
        assert answer == refusal
        sock.close()


def test_only_the_exact_path_asks_for_a_link() -> None:
    with serving() as server:
        visitor = server.visitor()
        visitor.get("/_proxy/linked")
        assert visitor.response().status == 404
        visitor.send(b"POST /_proxy/link HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert visitor.response().status == 400
        assert not server.has_event(core.EVENT_AUTH)


# --- the control stream ---------------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
def test_control_records_split_at_every_byte(carrier: Carrier) -> None:
    records = [b"{}", b'{"type":"x"}', b"z" * 100]
    wire = b"".join(struct.pack(">I", len(record)) + record for record in records)
    with serving() as server:
        device = server.device(carrier)
        device.open_control()
        for cut in range(1, len(wire)):
            device.data(1, wire[:cut])
            device.data(1, wire[cut:])
        for _ in range(1, len(wire)):
            for record in records:
                assert server.event(core.EVENT_CONTROL)[2] == record


def test_control_records_both_ways_beyond_the_window() -> None:
    with serving() as server:
        device = server.device()
        device.open_control()
        record = bytes(range(256)) * 256
        assert len(record) == core.CONTROL_RECORD_SIZE_MAX
        for _ in range(8):
            server.engine.link_send(device.link, record)
        received = b""
        while len(received) < 256 * 1024:
            received += device.next(1, DATA).payload
        assert len(received) == 256 * 1024
        device.grant(1, 1 << 20)
        while len(received) < 8 * (4 + len(record)):
            received += device.next(1, DATA).payload
        assert received == (struct.pack(">I", len(record)) + record) * 8
        # And credit comes back for ours.
        wire = struct.pack(">I", len(record)) + record
        for _ in range(3):
            device.data(1, wire)
        assert device.next(1, WINDOW).length >= 64 * 1024
        for _ in range(3):
            assert server.event(core.EVENT_CONTROL)[2] == record


@pytest.mark.parametrize("size", [0, core.CONTROL_RECORD_SIZE_MAX + 1, 0xFFFFFFFF])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_control_record_of_a_wrong_size_ends_the_link(carrier: Carrier, size: int) -> None:
    with serving() as server:
        device = server.device(carrier)
        device.open_control()
        device.data(1, b"\x00\x00\x00\x01x" + struct.pack(">I", size))
        assert server.event(core.EVENT_CONTROL)[2] == b"x"
        assert down_reason(server, device) == "bad_control_record"
        assert device.next(0).type == GO_AWAY
        assert device.closed()
        if carrier == "websocket":
            assert device.control == [(8, b"\x03\xe8")]


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_the_control_stream_lives_as_long_as_the_link(how: str) -> None:
    with serving() as server:
        device = server.device()
        device.open_control()
        if how == "fin":
            device.fin(1)
        else:
            device.reset(1)
        assert down_reason(server, device) == "control_closed"
        assert device.closed()


def test_a_device_that_does_not_read_its_control_stream_is_dropped() -> None:
    with serving() as server:
        device = server.device()
        device.open_control()
        for _ in range(24):
            server.engine.link_send(device.link, bytes(core.CONTROL_RECORD_SIZE_MAX))
        assert down_reason(server, device) == "control_overflow"


def test_a_flood_of_control_records_stops_by_its_window_and_loses_nothing() -> None:
    with serving(link_records_max=1_000_000, link_pings_max=1_000_000) as server:
        device = server.device()
        device.open_control()
        batch = b"".join(struct.pack(">II", 4, 0) for _ in range(1000))
        sent = credit = 0
        # Python reads no events: credit ends when the ring is full.
        credit = 256 * 1024
        while credit >= len(batch):
            device.data(1, batch)
            sent += 1000
            credit -= len(batch)
            device.send(frame(PING, SYN, 0, sent))
            assert device.next(0) == Frame(PING, ACK, 0, sent)
            while device.held:
                credit += device.next(1, WINDOW).length
            assert sent < 100_000, "it must not be granted for ever"
        for _ in range(sent):
            assert server.event(core.EVENT_CONTROL)[2] == bytes(4)
        # ... and comes back once it has read them.
        assert device.next(1, WINDOW).length >= 64 * 1024


def test_control_records_are_kept_while_python_is_away() -> None:
    with serving(link_records_max=1_000_000, link_pings_max=1_000_000) as server:
        device = server.device()
        device.open_control()
        count = 20_000  # far more than the ring takes, less than the window
        for start in range(0, count, 100):
            wire = b"".join(struct.pack(">II", 4, number) for number in range(start, start + 100))
            device.data(1, wire)
        numbers = [int.from_bytes(server.event(core.EVENT_CONTROL)[2], "big") for _ in range(count)]
        assert numbers == list(range(count))


@pytest.mark.parametrize("preamble", [True, False])
def test_streams_a_device_opens_are_refused_and_counted(preamble: bool) -> None:
    with serving() as server:
        device = server.device(preamble=preamble)
        if preamble:
            device.open_control()
        for stream in (3, 5, 7):
            device.send(frame(WINDOW, SYN, stream), frame(DATA, 0, stream, 3, b"abc"))
            found = device.next(stream)
            assert (found.type, found.flags, found.length) == (WINDOW, RST, REFUSED)
        device.send(frame(PING, SYN, 0, 9))
        assert device.next(0) == Frame(PING, ACK, 0, 9)
        assert server.stat("streams_refused") == 3
        assert server.stat("links_closed") == 0


# --- pings and the carriers -----------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_silent_device_is_pinged_and_then_given_up(carrier: Carrier) -> None:
    with serving(ping_interval_ms=50) as server:
        device = server.device(carrier)
        while True:  # read without answering
            found = device.parse()
            if found is not None:
                assert (found.type, found.flags) == (PING, SYN)
            elif not device.fill():
                break
        assert down_reason(server, device) == "ping_timeout"


def test_a_device_that_answers_pings_stays() -> None:
    with serving(ping_interval_ms=500) as server:
        device = server.device()
        for _ in range(5):  # the first comes at once
            found = None
            while found is None:
                found = device.parse()
                if found is None:
                    assert device.fill()
            device.send(frame(PING, ACK, 0, found.length))
        assert server.stat("links_closed") == 0


def test_a_wrong_pong_ends_the_link() -> None:
    with serving() as server:
        device = server.device()
        device.send(frame(PING, ACK, 0, 1))
        assert down_reason(server, device) == "bad_yamux"


def test_websocket_pings_are_answered_with_the_latest() -> None:
    with serving() as server:
        device = server.device("websocket")
        device.send_raw(ws_frame(9, b"one") + ws_frame(9, b"x" * 125) + ws_frame(10, b"unasked"))
        while not device.control:
            assert device.fill()
            device.unwrap()
        assert device.control[-1] == (10, b"x" * 125)
        device.send(frame(PING, SYN, 0, 4))
        assert device.next(0) == Frame(PING, ACK, 0, 4)


def test_a_websocket_close_ends_the_link_politely() -> None:
    with serving() as server:
        device = server.device("websocket")
        device.send_raw(ws_frame(8, b"\x03\xe8bye"))
        assert down_reason(server, device) == "closed"
        assert device.closed()
        assert device.control == [(8, b"\x03\xe8")]


@pytest.mark.parametrize(
    "wrong",
    [
        ws_frame(1, b"text"),
        ws_frame(2, b"unmasked", masked=False),
        ws_frame(9, b"x" * 126),
        ws_frame(0, b"continues nothing"),
        ws_frame(8, b"\x00"),
        b"\xc2\x80\x00\x00\x00\x00",
        ws_frame(3, b""),
    ],
)
def test_wrong_websocket_frames_end_the_link(wrong: bytes) -> None:
    with serving() as server:
        device = server.device("websocket")
        device.send_raw(wrong)
        assert down_reason(server, device) == "bad_websocket"
        assert device.closed()


def test_messages_of_a_link_may_be_cut_anywhere() -> None:
    with serving() as server:
        device = server.device("websocket")
        device.open_control()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        wire = frame(DATA, 0, stream, len(OK_HELLO), OK_HELLO)
        parts = [wire[index : index + 3] for index in range(0, len(wire), 3)]
        sent = b""
        for index, part in enumerate(parts):
            sent += ws_frame(0 if index else 2, part, final=index == len(parts) - 1)
            if index % 4 == 0:
                sent += ws_frame(9, b"between") + ws_frame(0, b"", final=False)
        for index in range(0, len(sent), 7):
            device.send_raw(sent[index : index + 7])
        assert visitor.response().body == b"hello"
        # And empty messages mean nothing.
        device.send_raw(ws_frame(2, b"") * 10)
        device.send(frame(PING, SYN, 0, 4))
        assert device.next(0) == Frame(PING, ACK, 0, 4)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_device_that_asks_without_reading_is_dropped(carrier: Carrier) -> None:
    with serving(link_pings_max=1 << 30) as server:
        device = server.device(carrier)
        pings = device.wrap(frame(PING, SYN, 0, 1) * 5_000)
        with pytest.raises(OSError):
            while True:
                device.send_raw(pings)
        assert down_reason(server, device) == "output_overflow"


def test_a_device_that_stops_reading_is_dropped() -> None:
    with serving(link_stall_ms=200, ping_interval_ms=1000) as server:
        device = server.device(window=16 << 20)
        visitor = server.visitor()
        visitor.send(b"PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000000\r\n\r\n")
        device.request()
        visitor.sock.settimeout(0.05)
        while not server.has_event(core.EVENT_LINK_DOWN):
            try:
                device.send(frame(PING, SYN, 0, 1))  # it lives, it only does not read
                visitor.send(bytes(1 << 20))
            except TimeoutError:
                pass
            except OSError:
                break
        assert down_reason(server, device) == "stalled"


@pytest.mark.parametrize("code", [1, 2])
def test_a_go_away_for_an_error_ends_the_link(code: int) -> None:
    with serving() as server:
        device = server.device()
        device.send(frame(GO_AWAY, 0, 0, code))
        assert down_reason(server, device) == "go_away"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_link_close_says_goodbye(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        visitor = server.visitor()
        visitor.get()
        device.request()
        server.engine.link_close(device.link, "replaced")
        assert down_reason(server, device) == "replaced"
        assert device.next(0) == Frame(GO_AWAY, 0, 0, 0)
        assert device.closed()
        assert visitor.response().status == 502
        # It is gone: these say nothing.
        server.engine.link_drain(device.link, close=True)
        server.engine.link_close(device.link, "again")
        server.engine.link_send(device.link, b"{}")


def test_a_byte_beyond_the_window_ends_the_link() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor(receive_buffer=4096)
        visitor.get()
        stream, _ = device.request()
        device.send(frame(DATA, 0, stream, 256 * 1024 + 1))
        assert down_reason(server, device) == "bad_yamux"
        assert visitor.response().status == 502


def test_data_after_fin_is_for_nobody_and_harms_nobody() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        device.fin(stream)
        device.data(stream, b"more")
        device.fin(stream)
        assert visitor.take_head().startswith(b"HTTP/1.1 101 ")
        assert visitor.rest() == b""
        server.wait_stat("link_unknown_stream_frames", 2)
        assert server.stat("link_protocol_errors") == 0
        visitor.send(b"still heard")
        assert device.next(stream, DATA).payload == b"still heard"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_drained_link_closes_itself_after_its_last_request(carrier: Carrier) -> None:
    with serving() as server:
        device = server.device(carrier)
        # One stream idle, two with a request under way.
        visitors = [server.visitor() for _ in range(3)]
        streams = []
        for visitor in visitors:
            visitor.get()
            streams.append(device.request()[0])
        device.data(streams[0], OK_HELLO)
        assert visitors[0].response().body == b"hello"
        server.engine.link_drain(device.link, close=True)
        assert device.next(streams[0]).flags & RST
        visitors[0].get()
        assert visitors[0].response().status == 503
        for stream, visitor in zip(streams[1:], visitors[1:], strict=True):
            assert not server.has_event(core.EVENT_LINK_DOWN)
            device.data(stream, OK_HELLO)
            assert visitor.response().body == b"hello"
        assert down_reason(server, device) == "drained"
        assert device.next(0) == Frame(GO_AWAY, 0, 0, 0)
        assert device.closed()


def test_an_idle_link_that_is_drained_closes_at_once() -> None:
    with serving() as server:
        device = server.device()
        server.engine.link_drain(device.link, close=True)
        assert down_reason(server, device) == "drained"


# --- stop and drain in every state ------------------------------------------------------------

PHASES = ["connected", "half a head", "auth", "queued", "sent", "head", "body", "idle", "tunnel"]


def reach(server: Server, device: Device, phase: str) -> tuple[object, int]:
    """Bring one more visitor to a phase: (visitor, its stream)."""
    if phase == "auth":
        return server.knock()
    visitor = server.visitor()
    stream = 0
    if phase == "connected":
        server.wait_stat("accepted", 2)
    elif phase == "half a head":
        visitor.send(b"GET / HTTP/1.1\r\nHo")
        wait_until(lambda: server.stat("buffer_bytes"))  # it has been read
    elif phase == "queued":
        visitor.get()
        device.request()
        visitor = server.visitor()
        visitor.get()
        server.wait_stat("requests_queued", 1)
    else:
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, _ = device.request()
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
        visitor.take_head()
    return visitor, stream


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("phase", PHASES)
def test_stop_in_every_phase_frees_everything(phase: str, carrier: Carrier) -> None:
    # serving() checks that no buffer is lent any more; under ASan, that nothing is used after.
    with serving() as server:
        device = server.device(carrier, streams_max=2)
        device.open_control()
        visitor, _ = reach(server, device, phase)
        server.engine.stop()
        assert device.closed()
        events = server.engine.poll()
        assert [event[3] for event in events if event[0] == core.EVENT_LINK_DOWN] == ["stopping"]
        if isinstance(visitor, socket.socket):
            visitor.close()


def accepts_nobody(server: Server) -> bool:
    # More than once: with several workers one may close its listener under a connection
    # just coming, while another's is still open.
    for _ in range(5):
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionError:
            continue
        return False
    return True


@pytest.mark.parametrize("phase", PHASES)
def test_drain_waits_for_what_is_under_way_and_tells_once(phase: str) -> None:
    with serving() as server:
        device = server.device(streams_max=2)
        device.open_control()
        visitor, stream = reach(server, device, phase)
        server.engine.drain(60_000)
        wait_until(lambda: accepts_nobody(server))
        if isinstance(visitor, socket.socket):  # auth
            server.engine.auth_reply(stream, b"HTTP/1.1 401 No\r\n\r\n", accept=False)
            server.event(core.EVENT_DRAINED)
            visitor.close()
            return
        wire: Device = visitor  # type: ignore[assignment]
        if phase in ("connected", "idle"):
            assert wire.fill() is False
        elif phase in ("half a head",):
            server.event(core.EVENT_DRAINED)
            wire.sock.sendall(b"st: web.test\r\n\r\n")
            stream, _ = device.request()
            device.data(stream, OK_HELLO)
            assert visitor.response().fields["connection"] == "close"  # type: ignore[attr-defined]
            assert not server.has_event(core.EVENT_DRAINED)
            return
        elif phase == "queued":
            assert not server.has_event(core.EVENT_DRAINED)
            server.engine.link_close(device.link, "")
        elif phase in ("sent", "head"):
            assert not server.has_event(core.EVENT_DRAINED)
            device.data(stream, OK_HELLO if phase == "sent" else OK_HELLO[10:])
            assert visitor.response().fields["connection"] == "close"  # type: ignore[attr-defined]
        elif phase == "body":
            device.data(stream, OK_HELLO[-2:])
        elif phase == "tunnel":
            assert not server.has_event(core.EVENT_DRAINED)
            device.fin(stream)
            wire.close()
        server.event(core.EVENT_DRAINED)
        server.engine.drain(0)
        server.engine.drain(0)
        device.abort()
        if phase != "queued":
            server.event(core.EVENT_LINK_DOWN)
        assert not server.has_event(core.EVENT_DRAINED)


def test_drain_does_not_wait_longer_than_its_grace() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        device.request()
        server.engine.drain(50)
        server.event(core.EVENT_DRAINED)
        assert server.stat("responses_local") == 0
