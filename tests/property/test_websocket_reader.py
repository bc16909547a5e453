"""What the frame codec holds to for every input: splits never matter, decode undoes encode."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy_engine_core._testing import websocket

# A completed message or control frame: (kind, opcode, close code, payload).
Item = tuple[int, int, int, bytes]

KEYS = st.binary(min_size=4, max_size=4)
LENGTHS = st.one_of(st.integers(0, 300), st.integers(65530, 65540), st.integers(0, 2**63 - 1))


def encode(opcode: int, final: bool, payload: bytes, key: bytes | None) -> bytes:
    header = websocket.header_encode(opcode, final, len(payload), key)
    return header + (websocket.mask(payload, key)[0] if key else payload)


def read(pieces: list[bytes], *, is_server: bool = True) -> tuple[list[Item], bytes, int]:
    """The items, the unfinished message after them, and the error."""
    reader = websocket.Reader(is_server, True, 2000)
    items: list[Item] = []
    message = b""
    for piece in pieces:
        for kind, opcode, is_end, close_code, data in reader.feed(piece):
            if kind != websocket.EVENT_DATA:
                items.append((kind, opcode, close_code, data))
                continue
            message += data
            if is_end:
                items.append((kind, opcode, 0, message))
                message = b""
    return items, message, reader.error


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(min(at, len(stream)) for at in cuts)
    return [stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True)]


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[Item]]:
    """A valid stream, fragmented and interleaved at will, and what it says."""
    stream, items = b"", []

    def control() -> None:
        nonlocal stream
        opcode = draw(st.sampled_from([9, 10]))
        payload = draw(st.binary(max_size=125))
        stream += encode(opcode, True, payload, draw(KEYS))
        kind = websocket.EVENT_PING if opcode == 9 else websocket.EVENT_PONG
        items.append((kind, opcode, 0, payload))

    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            control()
        if draw(st.booleans()):
            opcode, payload = 1, draw(st.text(max_size=60)).encode()
        else:
            opcode, payload = 2, draw(st.binary(max_size=400))
        parts = cut(payload, draw(st.lists(st.integers(0, 400), max_size=3)))
        for index, part in enumerate(parts):
            if index and draw(st.booleans()):
                control()
            final = index == len(parts) - 1
            stream += encode(0 if index else opcode, final, part, draw(KEYS))
        items.append((websocket.EVENT_DATA, opcode, 0, payload))
    return stream, items


@given(
    st.integers(0, 15), st.booleans(), LENGTHS, st.one_of(st.none(), KEYS), st.binary(max_size=3)
)
def test_decoding_undoes_encoding(
    opcode: int, final: bool, length: int, key: bytes | None, behind: bytes
) -> None:
    encoded = websocket.header_encode(opcode, final, length, key)
    expected = (len(encoded), length, key or bytes(4), opcode, 0, final, key is not None)
    assert websocket.header_decode(encoded + behind) == expected
    for size in range(len(encoded)):
        assert websocket.header_decode(encoded[:size]) == 0


@given(st.binary(min_size=2, max_size=20))
def test_a_decoded_header_encodes_to_the_same_bytes(data: bytes) -> None:
    decoded = websocket.header_decode(data)
    if isinstance(decoded, int):
        return
    size, length, key, opcode, reserved, final, masked = decoded
    encoded = bytearray(websocket.header_encode(opcode, final, length, key if masked else None))
    encoded[0] |= reserved << 4
    assert bytes(encoded) == data[:size]


@given(st.binary(max_size=400), KEYS, st.integers(0, 3), st.integers(0, 63), st.booleans())
def test_masking_twice_gives_the_bytes_back(
    data: bytes, key: bytes, phase: int, alignment: int, wide: bool
) -> None:
    masked, next_phase = websocket.mask(data, key, phase, alignment, wide)
    assert masked == bytes(byte ^ key[(phase + i) & 3] for i, byte in enumerate(data))
    assert websocket.mask(masked, key, phase, 0, not wide) == (data, next_phase)


@given(messages(), st.lists(st.integers(0, 2000), max_size=20))
def test_a_valid_stream_is_read_the_same_however_it_is_split(
    made: tuple[bytes, list[Item]], cuts: list[int]
) -> None:
    stream, items = made
    for pieces in ([stream], cut(stream, cuts), [bytes((byte,)) for byte in stream]):
        assert read(pieces) == (items, b"", 0)


@settings(max_examples=300)
@given(
    messages(),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
    st.integers(0, 2000),
    st.lists(st.integers(0, 2000), max_size=20),
    st.booleans(),
)
def test_a_broken_stream_gives_the_same_items_and_error_however_it_is_split(
    made: tuple[bytes, list[Item]],
    changes: list[tuple[int, int]],
    size: int,
    cuts: list[int],
    is_server: bool,
) -> None:
    data = bytearray(made[0][:size])
    for at, value in changes:
        if data:
            data[at % len(data)] = value
    stream = bytes(data)
    items, message, error = read([bytes((byte,)) for byte in stream], is_server=is_server)
    for pieces in ([stream], cut(stream, cuts)):
        other_items, other_message, other_error = read(pieces, is_server=is_server)
        assert (other_items, other_error) == (items, error)
        # A run that ends in the error is not handed on, so less may have been seen.
        assert message.startswith(other_message) if error else message == other_message


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=6))
@example(b"\xf0\x9f\x98\x80", [1, 2, 3])
@example(b"a" * 40 + b"\xe2\x82\xac" + b"b" * 35, [41])
def test_utf8_is_what_the_python_decoder_says_however_it_is_split(
    data: bytes, cuts: list[int]
) -> None:
    check_utf8(data, cuts)


@given(
    st.text(max_size=60), st.integers(0, 240), st.integers(0, 255), st.lists(st.integers(0, 240))
)
def test_damaged_utf8_is_what_the_python_decoder_says(
    text: str, at: int, value: int, cuts: list[int]
) -> None:
    data = bytearray(text.encode())
    check_utf8(bytes(data), cuts)
    if data:
        data[at % len(data)] = value
    check_utf8(bytes(data), cuts)


def check_utf8(data: bytes, cuts: list[int]) -> None:
    try:
        data.decode("utf-8")
        expected = (True, True)
    except UnicodeDecodeError as error:
        # The one error that more bytes can mend.
        expected = (error.reason == "unexpected end of data", False)
    assert websocket.utf8_check([data]) == expected
    assert websocket.utf8_check(cut(data, cuts)) == expected
    assert websocket.utf8_check([bytes((byte,)) for byte in data]) == expected
