"""permessage-deflate; section numbers are those of RFC 7692."""

from __future__ import annotations

import random
import resource
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy_engine_core._testing import websocket as native
from proxy_engine_core.websocket import Binary, Close, Connection, Deflate, Ping, Text

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
COMPRESSED = 0x40
KEY = b"\x37\xfa\x21\x3d"
TAIL = b"\x00\x00\xff\xff"


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    header = native.header_encode(opcode & 15, final, len(payload), KEY)
    header = bytes([header[0] | opcode & 0x70]) + header[1:]
    return header + native.mask(payload, KEY)[0]


def deflated(data: bytes, *, window_bits: int = 15, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes, window_bits: int = 15) -> bytes:
    return zlib.decompressobj(-window_bits).decompress(payload + TAIL)


def server(**options: int) -> Connection:
    return Connection("server", deflate=Deflate(), **options)  # type: ignore[arg-type]


def code_of(connection: Connection, wire: bytes) -> int:
    event = connection.receive(wire)[-1]
    assert isinstance(event, Close) and event.is_error
    return event.code


@pytest.mark.parametrize(
    "payload",
    [
        bytes.fromhex("f248cdc9c90700"),  # 7.2.3.1: one block
        bytes.fromhex("000500faff48656c6c6f00"),  # 7.2.3.3: no compression
        bytes.fromhex("f348cdc9c9070000"),  # 7.2.3.4: BFINAL set
        bytes.fromhex("f348cdc9c90700"),  # ... without the empty block behind it
        bytes.fromhex("f24805000000ffffcac9c90700"),  # 7.2.3.5: two blocks
    ],
)
def test_the_examples_of_the_rfc_say_hello(payload: bytes) -> None:
    assert server().receive(frame(TEXT | COMPRESSED, payload)) == [Text("Hello")]


def test_fragments_are_one_deflate_stream_and_only_the_first_says_so() -> None:
    payload = bytes.fromhex("f248cdc9c90700")
    first = frame(TEXT | COMPRESSED, payload[:3], final=False)
    wire = first + frame(PING, b"amid") + frame(CONTINUATION, payload[3:])
    assert server().receive(wire) == [Ping(b"amid"), Text("Hello")]
    connection = server()
    assert [e for byte in wire for e in connection.receive(bytes([byte]))][-1] == Text("Hello")
    # 6.1: RSV1 belongs to the first frame of a message, 6: never to a control frame.
    assert code_of(server(), first + frame(CONTINUATION | COMPRESSED, payload[3:])) == 1002
    assert code_of(server(), frame(PING | COMPRESSED)) == 1002
    assert code_of(server(), frame(CLOSE | COMPRESSED)) == 1002
    assert code_of(server(), frame(TEXT | 0x20, payload)) == 1002
    assert code_of(server(), frame(TEXT | 0x60, payload)) == 1002


def test_compressed_frames_are_an_error_when_it_was_not_agreed_on() -> None:
    assert code_of(Connection("server"), frame(TEXT | COMPRESSED, b"\x02\x00")) == 1002


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("window_bits", range(9, 16))
@pytest.mark.parametrize("size", [0, 1, 2, 100, 5000, 40_000, 400_000])
def test_what_zlib_deflates_we_inflate(size: int, window_bits: int, level: int) -> None:
    text = "".join(random.Random(size).choices("abcdefghé東", k=size))
    payload = deflated(text.encode(), window_bits=window_bits, level=level)
    assert server().receive(frame(TEXT | COMPRESSED, payload)) == [Text(text)]


@pytest.mark.parametrize("window_bits", range(9, 16))
@pytest.mark.parametrize("size", [64, 500, 70_000, 1_000_000])
def test_what_we_deflate_zlib_inflates_within_the_window(size: int, window_bits: int) -> None:
    data = bytes(random.Random(size).choices(b"abcdefgh", k=size))
    sender = Connection("server", deflate=Deflate(window_bits))
    for _ in range(2):  # the second may not refer to the first
        wire = sender.send_binary(data)
        header = native.header_decode(wire)
        assert isinstance(header, tuple)
        offset, length, _, opcode, reserved, _, _ = header
        assert (opcode, reserved) == (BINARY, 4) and length < size * 3 // 4
        assert inflated(wire[offset:], window_bits) == data


@pytest.mark.parametrize("data", [b"", b"short", bytes(63), random.Random(1).randbytes(5000)])
def test_what_would_not_shrink_goes_as_it_is(data: bytes) -> None:
    sender = Connection("server", deflate=Deflate())
    assert sender.send_binary(data) == Connection("server").send_binary(data)


def test_messages_in_parts_go_as_they_are() -> None:
    sender, receiver = Connection("client", deflate=Deflate()), server()
    wire = sender.send_text("a" * 1000, final=False) + sender.send_text("b" * 1000)
    assert wire[0] == TEXT
    assert receiver.receive(wire) == [Text("a" * 1000 + "b" * 1000)]
    assert sender.send_text("a" * 1000)[0] == 0x80 | COMPRESSED | TEXT


def test_connections_share_the_streams_without_mixing_messages() -> None:
    senders = [Connection("client", deflate=Deflate(9 + n % 7)) for n in range(20)]
    receivers = [server() for _ in senders]
    wires = [sender.send_text(f"message {n} " * 100) for n, sender in enumerate(senders)]
    # Each half first of all of them, then each rest.
    for receiver, wire in zip(receivers, wires, strict=True):
        assert receiver.receive(wire[:20]) == []
    for n, (receiver, wire) in enumerate(zip(receivers, wires, strict=True)):
        assert receiver.receive(wire[20:]) == [Text(f"message {n} " * 100)]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 10,  # a reserved block type
        b"\x00\x05\x00\x00\x00",  # a stored block whose lengths do not agree
        deflated(b"hello" * 100)[:-3],  # cut off in the middle of a block
        b"\x00\x05\x00\xfa\xffHel",
        b"\x04",
    ],
)
def test_what_is_no_whole_deflate_stream_is_a_protocol_error(payload: bytes) -> None:
    assert code_of(server(), frame(BINARY | COMPRESSED, payload)) == 1002


def test_an_empty_payload_is_an_empty_message() -> None:
    # What zlib gives for no bytes behind an earlier flush, and peers then send.
    assert server().receive(frame(BINARY | COMPRESSED, b"")) == [Binary(b"")]
    assert server().receive(frame(BINARY | COMPRESSED, b"\x00")) == [Binary(b"")]


def test_text_is_checked_after_inflating() -> None:
    assert code_of(server(), frame(TEXT | COMPRESSED, deflated(b"abc\xff"))) == 1007
    assert code_of(server(), frame(TEXT | COMPRESSED, deflated("é".encode()[:1]))) == 1007
    # ... and not before: these bytes are no UTF-8.
    assert server().receive(frame(TEXT | COMPRESSED, deflated("é".encode()))) == [Text("é")]


def test_a_bomb_costs_no_more_than_the_limit() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    # Piece by piece, or making it would be the peak.
    payload = b"".join(compressor.compress(bytes(100_000)) for _ in range(1000))
    payload = (payload + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(payload) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(server(max_message_size=1_000_000), frame(BINARY | COMPRESSED, payload)) == 1009
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@pytest.mark.parametrize(("size", "fits"), [(9_999, True), (10_000, True), (10_001, False)])
def test_the_limit_is_exact_after_inflating(size: int, fits: bool) -> None:
    events = server(max_message_size=10_000).receive(
        frame(BINARY | COMPRESSED, deflated(bytes(size)))
    )
    assert (events == [Binary(bytes(size))]) is fits
    if not fits:
        assert isinstance(events[0], Close) and events[0].code == 1009


def test_the_limit_holds_on_the_wire_as_well() -> None:
    assert code_of(server(max_message_size=10), frame(BINARY | COMPRESSED, b"\x00" * 11)) == 1009


def test_last_blocks_within_a_message_go_on_with_the_same_window() -> None:
    # Two streams ended by BFINAL, the second with references into the first.
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = random.Random(2).randbytes(300)
    one = first.compress(text) + first.flush(zlib.Z_FINISH)
    second = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=text)
    two = second.compress(text * 2) + second.flush(zlib.Z_SYNC_FLUSH)
    assert len(two) < 50
    event = server().receive(frame(BINARY | COMPRESSED, one + two[:-4]))
    assert event == [Binary(text * 3)]


def test_streaming_gives_compressed_messages_whole() -> None:
    receiver = Connection("server", deflate=Deflate(), stream=True)
    payload = deflated("Grüße".encode() * 100)
    wire = frame(TEXT | COMPRESSED, payload[:9], final=False) + frame(CONTINUATION, payload[9:])
    plain = frame(TEXT, b"par", final=False) + frame(CONTINUATION, b"ts")
    assert receiver.receive(wire + plain) == [
        Text("Grüße" * 100),
        Text("par", final=False),
        Text("ts"),
    ]


def test_a_window_too_small_for_zlib_means_compressed_input_only() -> None:
    receiver, sender = Connection("server", deflate=Deflate(8)), Connection("client")
    assert receiver.send_text("a" * 1000) == Connection("server").send_text("a" * 1000)
    assert receiver.receive(frame(TEXT | COMPRESSED, deflated(b"abc"))) == [Text("abc")]
    assert receiver.receive(sender.send_text("plain")) == [Text("plain")]


@pytest.mark.parametrize("window_bits", [0, 7, 16])
def test_windows_that_can_not_be_agreed_on_are_refused(window_bits: int) -> None:
    with pytest.raises(ValueError, match="window_bits"):
        Connection("server", deflate=Deflate(window_bits))


def test_threads_with_connections_of_their_own_do_not_mix() -> None:
    # Fetching masking keys from the system lets other threads run: not while the shared
    # streams are in use.
    def send(number: int) -> int:
        sender, receiver = Connection("client", deflate=Deflate()), server()
        text = f"{number:04} " * 200
        return sum(receiver.receive(sender.send_text(text)) != [Text(text)] for _ in range(3000))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 0
