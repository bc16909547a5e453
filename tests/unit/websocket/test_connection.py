"""The Python face of the codec; section numbers are those of RFC 6455."""

from __future__ import annotations

import gc
import os
import random
import resource
from itertools import pairwise
from typing import Any

import pytest

from proxy_engine_core._testing import websocket as native
from proxy_engine_core.websocket import (
    MAX_MESSAGE_SIZE,
    Binary,
    Close,
    Connection,
    LocalProtocolError,
    Ping,
    Pong,
    Text,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"\x37\xfa\x21\x3d"


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True) -> bytes:
    header = native.header_encode(opcode, final, len(payload), KEY if masked else None)
    return header + (native.mask(payload, KEY)[0] if masked else payload)


def pair(**options: Any) -> tuple[Connection, Connection]:
    return Connection("server", **options), Connection("client", **options)


MESSAGES = ["", "a", "Grüße aus 東京", "x" * 125, "y" * 126, "z" * 70_000, "é" * 40_000]


@pytest.mark.parametrize("text", MESSAGES)
def test_text_and_bytes_arrive_both_ways_as_they_were_sent(text: str) -> None:
    for receiver, sender in (pair(), pair()[::-1]):
        assert receiver.receive(sender.send_text(text)) == [Text(text)]
        data = text.encode()
        assert receiver.receive(sender.send_binary(data)) == [Binary(data)]
        assert receiver.receive(sender.send_binary(memoryview(bytearray(data)))) == [Binary(data)]
        assert receiver.outgoing() == b""


def test_any_buffer_is_read_and_left_as_it_was() -> None:
    wire = frame(TEXT, b"hello")
    for data in (wire, bytearray(wire), memoryview(wire)):
        assert Connection("server").receive(data) == [Text("hello")]
        assert bytes(data) == wire
    with pytest.raises(TypeError):
        Connection("server").receive("text")  # type: ignore[arg-type]


def test_input_may_come_in_any_pieces() -> None:
    sender = Connection("client")
    wire = b"".join(
        [
            sender.send_text("Grüße", final=False),
            sender.ping(b"now"),
            sender.send_text(" aus ", final=False),
            sender.send_text("東京"),
            sender.send_binary(random.Random(1).randbytes(100_000)),
            sender.close(4000, "enough"),
        ]
    )
    whole = Connection("server").receive(wire)
    assert whole[0] == Ping(b"now")
    assert whole[1] == Text("Grüße aus 東京")
    assert whole[3] == Close(4000, "enough")
    for size in (1, 2, 3, 7, 1000, 32 * 1024, 32 * 1024 + 1):
        receiver = Connection("server")
        events = []
        for start in range(0, len(wire), size):
            events += receiver.receive(wire[start : start + size])
        assert events == whole


def test_a_streaming_connection_gives_parts_of_whole_characters() -> None:
    text = "aé東😀" * 50
    receiver, sender = pair(stream=True)
    wire = sender.send_text(text, final=False) + sender.send_text(text)
    parts = [event for byte in wire for event in receiver.receive(bytes([byte]))]
    assert all(isinstance(part, Text) for part in parts)
    texts = [part.data for part in parts if isinstance(part, Text)]
    assert "".join(texts) == text * 2 and max(map(len, texts)) == 1
    assert [part.final for part in parts if isinstance(part, Text)][-2:] == [False, True]
    assert receiver.receive(sender.send_binary(b"ab", final=False)) == [Binary(b"ab", final=False)]
    assert receiver.receive(sender.send_binary(b"")) == [Binary(b"")]


def test_pings_are_answered_in_order_by_outgoing() -> None:
    receiver, sender = pair()
    assert receiver.receive(sender.ping(b"1") + sender.ping(b"2")) == [Ping(b"1"), Ping(b"2")]
    assert sender.receive(receiver.outgoing()) == [Pong(b"1"), Pong(b"2")]
    assert receiver.outgoing() == b""
    # The client's answers are masked.
    assert sender.receive(receiver.ping(b"x" * 125)) == [Ping(b"x" * 125)]
    assert receiver.receive(sender.outgoing()) == [Pong(b"x" * 125)]


def test_a_pong_that_is_due_goes_ahead_of_what_is_sent_next() -> None:
    server, client = pair()
    server.receive(client.ping(b"1"))
    assert client.receive(server.send_text("a")) == [Pong(b"1"), Text("a")]
    assert server.outgoing() == b""
    server.receive(client.ping(b"2") + client.close())
    assert client.receive(server.outgoing()) == [Pong(b"2"), Close(1000)]


def test_pings_are_the_callers_with_auto_pong_off() -> None:
    receiver, sender = pair(auto_pong=False)
    assert receiver.receive(sender.ping(b"1")) == [Ping(b"1")]
    assert receiver.outgoing() == b""
    assert sender.receive(receiver.pong(b"1")) == [Pong(b"1")]


def test_closing_handshake_begun_by_us() -> None:
    server, client = pair()
    wire = client.close(1001, "bye")
    assert client.state == "closing"
    # What the other side sent before it knew still arrives (5.5.1).
    assert client.receive(server.send_text("late")) == [Text("late")]
    assert server.receive(wire) == [Close(1001, "bye")]
    assert server.state == "closing"
    assert server.receive(b"whatever") == []
    # The server may still say what it owes, until its own Close is out.
    assert client.receive(server.send_text("last")) == [Text("last")]
    answer = server.outgoing()
    assert server.state == "closed"
    assert answer == frame(CLOSE, b"\x03\xe9", masked=False)
    assert client.receive(answer) == [Close(1001)]
    assert client.state == "closed"
    assert client.outgoing() == server.outgoing() == b""


def test_a_close_without_a_code_is_answered_without_one() -> None:
    server, client = pair()
    assert server.receive(client.close(1005)) == [Close(1005)]
    assert server.outgoing() == frame(CLOSE, masked=False)


def test_a_close_can_be_answered_with_a_code_of_ones_own() -> None:
    server, client = pair()
    server.receive(client.close())
    assert server.close(4321, "why") == frame(CLOSE, b"\x10\xe1why", masked=False)
    assert server.outgoing() == b""


def test_closes_that_cross_need_no_answer() -> None:
    server, client = pair()
    from_server, from_client = server.close(), client.close()
    assert server.receive(from_client) == [Close(1000)]
    assert client.receive(from_server) == [Close(1000)]
    assert server.state == client.state == "closed"
    assert server.outgoing() == client.outgoing() == b""


def test_nothing_is_sent_behind_our_close() -> None:
    server, client = pair()
    server.close()
    for send in (server.send_text, server.send_binary, server.ping, server.pong):
        with pytest.raises(LocalProtocolError, match="closing"):
            send("" if send == server.send_text else b"")  # type: ignore[arg-type]
    assert server.close() == b""
    assert server.receive(client.ping()) == [Ping()]
    assert server.outgoing() == b""


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1006, 1015, 2999, 5000, 65536 + 1000])
def test_close_codes_that_can_not_be_sent_are_refused(code: int) -> None:
    server = Connection("server")
    with pytest.raises(ValueError, match="code"):
        server.close(code)
    assert server.state == "open"


def test_reasons_and_control_data_have_their_limits() -> None:
    server, client = pair()
    with pytest.raises(ValueError, match="123"):
        server.close(1000, "é" * 62)
    with pytest.raises(ValueError, match="123"):
        server.close(1005, "reason without a code")
    with pytest.raises(ValueError, match="125"):
        server.ping(bytes(126))
    assert client.receive(server.close(1000, "x" * 123)) == [Close(1000, "x" * 123)]


@pytest.mark.parametrize(
    ("code", "wire"),
    [
        (1002, frame(TEXT, b"x", masked=False)),
        (1002, b"\xc1\x80" + KEY),  # RSV1 without an extension
        (1002, frame(CONTINUATION)),
        (1002, frame(TEXT, b"a", final=False) + frame(TEXT, b"b")),
        (1002, frame(PING, final=False)),
        (1002, frame(CLOSE, b"\x03")),
        (1002, frame(CLOSE, b"\x03\xed")),
        (1002, frame(3)),
        (1007, frame(TEXT, b"\xff")),
        (1007, frame(TEXT, b"\xc3")),
        (1007, frame(CLOSE, b"\x03\xe8\xff")),
        (1009, frame(BINARY, bytes(1001))),
        (1009, frame(BINARY, bytes(600), final=False) + frame(CONTINUATION, bytes(401))),
    ],
)
def test_a_protocol_error_is_a_close_event_and_is_told_to_the_peer(code: int, wire: bytes) -> None:
    server = Connection("server", max_message_size=1000)
    [first, last] = server.receive(frame(TEXT, b"before") + wire)
    assert first == Text("before")
    assert isinstance(last, Close) and last.code == code and last.is_error and last.reason
    assert server.state == "closing"
    assert server.receive(frame(TEXT, b"behind")) == []
    client = Connection("client")
    answers = client.receive(server.send_text("an answer") + server.outgoing())
    assert answers == [Text("an answer"), Close(code, last.reason)]
    assert server.state == "closed"


def test_the_end_of_the_transport_without_a_close_is_1006() -> None:
    server, client = pair()
    [event] = server.receive_eof()
    assert isinstance(event, Close) and (event.code, event.is_error) == (1006, True)
    assert server.state == "closed" and server.outgoing() == b"" and server.receive_eof() == []
    with pytest.raises(LocalProtocolError):
        server.send_text("nobody hears")
    assert client.receive(Connection("server").close()) == [Close(1000)]
    assert client.receive_eof() == []
    assert client.state == "closed"


def test_messages_in_parts_keep_to_their_type() -> None:
    server, client = pair()
    first = server.send_text("a", final=False)
    with pytest.raises(LocalProtocolError, match="not finished"):
        server.send_binary(b"b")
    assert client.receive(first + server.ping() + server.send_text("b")) == [Ping(), Text("ab")]
    assert client.receive(server.send_binary(b"c")) == [Binary(b"c")]


def test_lone_surrogates_are_refused_and_leave_no_trace() -> None:
    server, client = pair()
    with pytest.raises(UnicodeEncodeError):
        server.send_text("\ud800", final=False)
    assert client.receive(server.send_binary(b"x")) == [Binary(b"x")]


def test_every_frame_of_a_client_has_a_key_of_its_own() -> None:
    client = Connection("client")
    # Past the end of one stock of keys.
    keys = [client.send_text("")[2:6] for _ in range(3000)]
    assert len(set(keys)) > 2990
    assert all(one != other for one, other in pairwise(keys))
    assert Connection("server").send_text("") == b"\x81\x00"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_masks_with_other_keys() -> None:
    client = Connection("client")
    client.send_text("")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(client.send_text("")[2:] for _ in range(4)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100)
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 16
    assert theirs != b"".join(client.send_text("")[2:] for _ in range(4))


@pytest.mark.parametrize(
    "options",
    [
        {"role": "proxy"},
        {"role": "server", "max_message_size": 0},
        {"role": "server", "max_message_size": 2**30 + 1},
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"role|max_message_size"):
        Connection(**options)


def test_the_default_limit_is_16_mib() -> None:
    assert MAX_MESSAGE_SIZE == 16 * 1024 * 1024
    header = native.header_encode(BINARY, True, MAX_MESSAGE_SIZE + 1, KEY)
    [event] = Connection("server").receive(header)
    assert isinstance(event, Close) and event.code == 1009
    assert Connection("server").receive(header[:2]) == []


def test_events_compare_print_and_match() -> None:
    assert Text("a") != Text("b") and Text("a") != Text("a", final=False)
    assert Text("a") != Binary(b"a") and Ping(b"a") != Pong(b"a")
    assert repr([Text("a"), Binary(b"b", final=False), Ping(b"c"), Pong()]) == (
        "[Text('a'), Binary(b'b', final=False), Ping(b'c'), Pong(b'')]"
    )
    assert repr(Close(1002, "no", is_error=True)) == "Close(1002, 'no', is_error=True)"
    assert Close(1000) != Close(1000, is_error=True)
    match Connection("server").receive(frame(TEXT, b"hello"))[0]:
        case Text(text, final):
            assert (text, final) == ("hello", True)
        case other:
            raise AssertionError(other)
    with pytest.raises(TypeError):
        hash(Text("a"))


def test_events_are_not_tracked_by_the_garbage_collector() -> None:
    # Making one must not run code of others while shared memory is in use.
    events = [Text("a"), Binary(b"b"), Ping(b"c"), Pong(b"d"), Close(1000, "e")]
    assert not any(gc.is_tracked(event) for event in events)


def test_a_connection_dropped_amid_a_message_gives_its_memory_back() -> None:
    wire = frame(BINARY, bytes(200_000), final=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        Connection("server").receive(wire)
    # 250 MiB if they were kept.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
