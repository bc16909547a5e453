"""What Connection holds to for every input: pieces never matter, what is sent arrives."""

from __future__ import annotations

import zlib
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_engine_core._testing import websocket as native
from proxy_engine_core.websocket import Binary, Close, Connection, Deflate, Ping, Pong, Text

KEY = b"\x37\xfa\x21\x3d"
Event = Text | Binary | Ping | Pong | Close

deflates = st.one_of(st.none(), st.builds(Deflate, st.integers(8, 15)))
texts = st.one_of(st.text(max_size=300), st.text("aé東😀", min_size=60).map(lambda t: t * 20))
datas = st.one_of(st.binary(max_size=300), st.binary(min_size=1, max_size=40).map(lambda b: b * 99))
messages = st.one_of(st.builds(Text, texts), st.builds(Binary, datas))
controls = st.one_of(*(st.builds(kind, st.binary(max_size=125)) for kind in (Ping, Pong)))
closes = st.builds(
    Close, st.sampled_from([1000, 1001, 3000, 4999]), st.text(max_size=30)
)  # at most 120 bytes


def send(connection: Connection, event: Event, cuts: list[int]) -> list[bytes]:
    """The frames of an event; a message in parts cut at `cuts`."""
    match event:
        case Ping(data):
            return [connection.ping(data)]
        case Pong(data):
            return [connection.pong(data)]
        case Close(code, reason):
            return [connection.close(code, reason)]
        case Text(text):
            ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
            parts = [text[a:b] for a, b in pairwise(ends)]
            return [connection.send_text(p, n == len(cuts)) for n, p in enumerate(parts)]
        case Binary(data):
            ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
            pieces = [data[a:b] for a, b in pairwise(ends)]
            return [connection.send_binary(p, n == len(cuts)) for n, p in enumerate(pieces)]


def receive(connection: Connection, stream: bytes, cuts: list[int]) -> list[Event]:
    ends = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [event for a, b in pairwise(ends) for event in connection.receive(stream[a:b])]


def joined(events: list[Event]) -> list[Event]:
    """Streamed parts as whole messages; control frames amid one come before it."""
    whole: list[Event] = []
    text, data = "", b""
    for event in events:
        match event:
            case Text(part, final):
                text += part
                if final:
                    whole.append(Text(text))
                    text = ""
            case Binary(piece, final):
                data += piece
                if final:
                    whole.append(Binary(data))
                    data = b""
            case _:
                whole.append(event)
    return whole


@settings(max_examples=300)
@given(
    st.booleans(),
    deflates,
    st.lists(st.tuples(messages, st.lists(st.integers(0, 400), max_size=3)), max_size=4),
    st.lists(controls, max_size=3),
    st.one_of(st.none(), closes),
    st.lists(st.integers(0, 5000), max_size=8),
)
def test_what_is_sent_arrives_however_it_is_cut(
    from_server: bool,
    deflate: Deflate | None,
    sent: list[tuple[Event, list[int]]],
    amid: list[Event],
    close: Close | None,
    cuts: list[int],
) -> None:
    sender = Connection("server" if from_server else "client", deflate=deflate)
    stream = b""
    expected: list[Event] = []
    waiting = list(amid)
    for event, parts in sent:
        frames = send(sender, event, parts)
        stream += frames[0]
        for frame in frames[1:]:
            if waiting:  # between the parts of a message
                expected.append(waiting[0])
                stream += send(sender, waiting.pop(0), [])[0]
            stream += frame
        expected.append(event)
    if close is not None:
        stream += send(sender, close, [])[0]
        expected.append(close)
    for stream_parts in (False, True):
        receiver = Connection(
            "client" if from_server else "server", deflate=deflate, stream=stream_parts
        )
        assert joined(receive(receiver, stream, cuts)) == expected
        assert receiver.state == ("closing" if close else "open")


def frame(opcode: int, final: bool, payload: bytes) -> bytes:
    header = native.header_encode(opcode & 15, final, len(payload), KEY)
    return bytes([header[0] | opcode & 0x70]) + header[1:] + native.mask(payload, KEY)[0]


compressed = st.binary(max_size=200).map(
    lambda data: zlib.compress(data * 7, wbits=-15, level=1)[:-1]
)
frames = st.builds(
    frame,
    st.sampled_from([0, 1, 2, 8, 9, 10, 0x41, 0x42, 0x40, 0x49, 3]),
    st.booleans(),
    st.one_of(st.binary(max_size=60), st.text(max_size=20).map(str.encode), compressed),
)
streams = st.lists(st.one_of(frames, frames, st.binary(max_size=6)), max_size=6).map(b"".join)


@settings(max_examples=500)
@given(streams, deflates, st.lists(st.integers(0, 600), max_size=6))
def test_any_input_is_judged_the_same_however_it_is_cut(
    stream: bytes, deflate: Deflate | None, cuts: list[int]
) -> None:
    whole, cut, fine = (
        Connection("server", deflate=deflate, max_message_size=500) for _ in range(3)
    )
    events = whole.receive(stream)
    assert receive(cut, stream, cuts) == events
    assert receive(fine, stream, list(range(len(stream)))) == events
    assert whole.outgoing() == cut.outgoing() == fine.outgoing()
    assert whole.state == cut.state == fine.state
    for event in events[:-1]:
        assert not isinstance(event, Close)
    for event in events:
        if isinstance(event, Text | Binary):
            size = len(event.data.encode() if isinstance(event, Text) else event.data)
            assert size <= 500
        if isinstance(event, Close) and event.is_error:
            assert event.code in (1002, 1007, 1009)
            assert whole.state == "closed"


@settings(max_examples=300)
@given(st.one_of(compressed, st.binary(min_size=1, max_size=100)))
def test_a_compressed_payload_means_what_zlib_says(payload: bytes) -> None:
    [event] = Connection("server", deflate=Deflate(), max_message_size=100_000).receive(
        frame(0x42, True, payload)
    )
    decompressor = zlib.decompressobj(-15)
    try:
        data = decompressor.decompress(payload + b"\x00\x00\xff\xff")
    except zlib.error:
        assert event == Close(1002, "protocol error", is_error=True)
        return
    if decompressor.eof:
        return  # a last block: what follows it is ours to read, zlib stops
    if isinstance(event, Binary):
        assert event.data == data
    else:
        # zlib waits for more: the payload ends in the middle of a block.
        assert event == Close(1002, "protocol error", is_error=True)
