"""The frame codec against RFC 6455; section numbers are its own."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from proxy_engine_core._testing import websocket
from proxy_engine_core._testing.websocket import (
    ERROR_PROTOCOL,
    ERROR_TOO_BIG,
    ERROR_UTF8,
    EVENT_CLOSE,
    EVENT_DATA,
    EVENT_PING,
    EVENT_PONG,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"\x11\x22\x33\x44"
VECTORS = Path(__file__).parents[2] / "vectors" / "websocket_rfc6455.json"
KINDS = {
    "text": (EVENT_DATA, TEXT),
    "binary": (EVENT_DATA, BINARY),
    "ping": (EVENT_PING, PING),
    "pong": (EVENT_PONG, PONG),
}


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, key: bytes | None = KEY
) -> bytes:
    header = websocket.header_encode(opcode, final, len(payload), key)
    return header + (websocket.mask(payload, key)[0] if key else payload)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def error_of(*data: bytes, **options: Any) -> int:
    reader = websocket.Reader(**options)
    for piece in data:
        reader.feed(piece)
    return reader.error


# ---- Section 5.7


def load_vectors() -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads(VECTORS.read_text())["vectors"]
    return vectors


def counted(size: int) -> bytes:
    return bytes(i & 255 for i in range(size))


@pytest.mark.parametrize("vector", load_vectors(), ids=lambda vector: vector["name"])
def test_the_examples_of_the_rfc_are_read(vector: dict[str, Any]) -> None:
    stream = bytes.fromhex(vector["hex"]) + counted(vector.get("payload_size", 0))
    reader = websocket.Reader(is_server=vector["masked"])
    seen: list[tuple[int, int, bytes]] = []
    payload = b""
    for kind, opcode, is_end, _, data in reader.feed(stream):
        payload += data
        if is_end:
            seen.append((kind, opcode, payload))
            payload = b""
    expected = [
        (
            *KINDS[message["kind"]],
            bytes.fromhex(message["hex"]) if "hex" in message else counted(message["payload_size"]),
        )
        for message in vector["messages"]
    ]
    assert reader.error == 0
    assert seen == expected


# ---- Section 5.2: headers


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("length", "size"),
    [(0, 2), (125, 2), (126, 4), (127, 4), (65535, 4), (65536, 10), (2**32, 10), (2**63 - 1, 10)],
)
def test_a_header_uses_the_shortest_length_form(length: int, size: int, key: bytes | None) -> None:
    encoded = websocket.header_encode(BINARY, True, length, key)
    whole = size + 4 if key else size
    assert len(encoded) == whole
    assert websocket.header_decode(encoded) == (
        whole,
        length,
        key or bytes(4),
        BINARY,
        0,
        True,
        key is not None,
    )
    for cut in range(whole):
        assert websocket.header_decode(encoded[:cut]) == 0


@pytest.mark.parametrize(
    "header",
    [
        "827e0000",
        "827e007d",
        "827f0000000000000000",
        "827f000000000000007e",
        "827f000000000000ffff",
        "827f8000000000000000",
        "827fffffffffffffffff",
    ],
)
def test_a_length_that_is_not_minimal_or_too_large_is_a_protocol_error(header: str) -> None:
    assert websocket.header_decode(bytes.fromhex(header)) == ERROR_PROTOCOL
    assert error_of(bytes.fromhex(header), is_server=False) == ERROR_PROTOCOL


def test_the_reserved_bits_of_a_header_are_decoded_and_refused_by_the_reader() -> None:
    for reserved in range(1, 8):
        header = bytes((0x82 | reserved << 4, 0))
        decoded = websocket.header_decode(header)
        assert not isinstance(decoded, int)
        assert decoded[4] == reserved
        assert error_of(header, is_server=False) == ERROR_PROTOCOL


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_an_unknown_opcode_is_a_protocol_error(opcode: int) -> None:
    assert error_of(frame(opcode)) == ERROR_PROTOCOL


def test_bad_first_bytes_are_refused_before_the_rest_of_the_header_is_there() -> None:
    for start in (b"\xc2\xfe", b"\x83\xfe", b"\x82\x7e", b"\x89\xfe", b"\x09\x80", b"\x80\xff"):
        assert error_of(start) == ERROR_PROTOCOL
        assert error_of(start[:1], start[1:]) == ERROR_PROTOCOL
        assert error_of(start[:1]) == 0


# ---- Section 5.1: masking


def test_a_server_refuses_unmasked_frames_and_a_client_masked_ones() -> None:
    for opcode in (TEXT, BINARY, PING, CLOSE):
        assert error_of(frame(opcode, key=None), is_server=True) == ERROR_PROTOCOL
        assert error_of(frame(opcode, key=KEY), is_server=False) == ERROR_PROTOCOL
        assert error_of(frame(opcode, key=KEY), is_server=True) == 0
        assert error_of(frame(opcode, key=None), is_server=False) == 0


# ---- Section 5.4: fragments


def test_payload_comes_as_runs_and_only_the_last_ends_the_message() -> None:
    stream = frame(BINARY, b"abcdef")
    reader = websocket.Reader()
    assert reader.feed(stream[:7]) == [(EVENT_DATA, BINARY, False, 0, b"a")]
    assert reader.feed(stream[7:9]) == [(EVENT_DATA, BINARY, False, 0, b"bc")]
    assert reader.feed(b"") == []
    assert reader.feed(stream[9:]) == [(EVENT_DATA, BINARY, True, 0, b"def")]


def test_control_frames_between_fragments_leave_the_message_alone() -> None:
    reader = websocket.Reader()
    events = reader.feed(
        frame(TEXT, b"\xc3", final=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, b"", final=False)
        + frame(PONG)
        + frame(CONTINUATION, b"\xa9")
    )
    assert events == [
        (EVENT_DATA, TEXT, False, 0, b"\xc3"),
        (EVENT_PING, PING, True, 0, b"p"),
        (EVENT_PONG, PONG, True, 0, b""),
        (EVENT_DATA, TEXT, True, 0, b"\xa9"),
    ]
    assert reader.error == 0


def test_an_empty_frame_that_ends_a_message_is_told_and_one_that_does_not_is_silent() -> None:
    reader = websocket.Reader()
    assert reader.feed(frame(BINARY)) == [(EVENT_DATA, BINARY, True, 0, b"")]
    assert reader.feed(frame(TEXT, final=False)) == []
    assert reader.feed(frame(CONTINUATION)) == [(EVENT_DATA, TEXT, True, 0, b"")]
    assert reader.error == 0


def test_a_continuation_without_a_message_is_a_protocol_error() -> None:
    assert error_of(frame(CONTINUATION)) == ERROR_PROTOCOL
    assert error_of(frame(BINARY, b"x") + frame(CONTINUATION)) == ERROR_PROTOCOL


def test_a_new_message_inside_a_message_is_a_protocol_error() -> None:
    for opcode in (TEXT, BINARY):
        assert error_of(frame(BINARY, b"x", final=False) + frame(opcode)) == ERROR_PROTOCOL


# ---- Section 5.5: control frames


def test_control_frames_are_gathered_from_any_pieces() -> None:
    stream = frame(PING, bytes(range(125)))
    reader = websocket.Reader()
    events = [event for byte in stream for event in reader.feed(bytes((byte,)))]
    assert events == [(EVENT_PING, PING, True, 0, bytes(range(125)))]


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_long_or_fragmented_control_frame_is_a_protocol_error(opcode: int) -> None:
    assert error_of(frame(opcode, bytes(126))) == ERROR_PROTOCOL
    assert error_of(frame(opcode, final=False)) == ERROR_PROTOCOL


# ---- Sections 5.5.1 and 7.4: close


def test_a_close_frame_gives_its_code_and_reason() -> None:
    reader = websocket.Reader()
    assert reader.feed(close(1001, "schön".encode())) == [
        (EVENT_CLOSE, CLOSE, True, 1001, "schön".encode())
    ]
    reader = websocket.Reader()
    assert reader.feed(frame(CLOSE)) == [(EVENT_CLOSE, CLOSE, True, 1005, b"")]


def test_only_close_codes_that_may_be_sent_are_accepted() -> None:
    allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    for code in [*range(5100), 9999, 65535]:
        assert error_of(close(code)) == (0 if code in allowed else ERROR_PROTOCOL), code


def test_a_close_payload_of_one_byte_is_a_protocol_error() -> None:
    assert error_of(frame(CLOSE, b"\x03")) == ERROR_PROTOCOL


@pytest.mark.parametrize("reason", [b"\xff", b"ok\xc3", b"\xed\xa0\x80"])
def test_a_close_reason_must_be_utf8(reason: bytes) -> None:
    assert error_of(close(1000, reason)) == ERROR_UTF8


# ---- Section 8.1: text


def test_text_fails_at_the_first_bad_byte() -> None:
    stream = frame(TEXT, b"abc\xe2\x28" + bytes(100))
    for cut, following in pairwise(range(6, 6 + 6)):
        reader = websocket.Reader()
        reader.feed(stream[:cut])
        assert reader.error == 0
        reader.feed(stream[cut:following])
        assert (reader.error == ERROR_UTF8) == (following == 6 + 5)
        if reader.error:
            return
    pytest.fail("the bad byte was accepted")


def test_text_may_not_end_in_the_middle_of_a_character() -> None:
    assert error_of(frame(TEXT, b"a\xe2\x82")) == ERROR_UTF8
    assert error_of(frame(TEXT, b"\xe2", final=False) + frame(CONTINUATION)) == ERROR_UTF8
    assert error_of(frame(TEXT, b"\xe2", final=False) + frame(CONTINUATION, b"\x82\xac")) == 0


def test_binary_may_hold_anything() -> None:
    reader = websocket.Reader()
    assert reader.feed(frame(BINARY, b"\xff\xc0")) == [(EVENT_DATA, BINARY, True, 0, b"\xff\xc0")]


def test_text_is_a_protocol_error_where_it_is_not_allowed() -> None:
    assert error_of(frame(TEXT, b"x"), text_allowed=False) == ERROR_PROTOCOL
    assert error_of(frame(BINARY, b"x") + frame(PING), text_allowed=False) == 0


# ---- Limits


def test_a_message_that_is_too_big_is_refused_from_its_header() -> None:
    header = websocket.header_encode(BINARY, True, 1001, KEY)
    assert error_of(header, message_size_max=1000) == ERROR_TOO_BIG
    assert error_of(header, message_size_max=1001) == 0
    assert error_of(header) == 0


def test_fragments_add_up_to_the_limit() -> None:
    first = frame(BINARY, bytes(600), final=False)
    assert error_of(first + frame(CONTINUATION, bytes(400)), message_size_max=1000) == 0
    header = websocket.header_encode(CONTINUATION, False, 401, KEY)
    assert error_of(first + header, message_size_max=1000) == ERROR_TOO_BIG


def test_the_limit_counts_each_message_anew_and_no_control_frames() -> None:
    stream = (frame(BINARY, bytes(1000)) + frame(PING, bytes(100))) * 3
    assert error_of(stream, message_size_max=1000) == 0


def test_lengths_that_would_wrap_around_are_too_big() -> None:
    first = frame(BINARY, b"x", final=False)
    header = websocket.header_encode(CONTINUATION, True, 2**63 - 1, KEY)
    assert error_of(first + header, message_size_max=2**64 - 1) == 0
    assert error_of(first + header, message_size_max=2**63 - 1) == ERROR_TOO_BIG
