"""Fuzz the WebSocket reader: what it says of a stream must not depend on how it came.

Input: byte 0 seeds the split, byte 1 holds the reader's settings, the rest is the
stream. The stream is read three times, whole, byte by byte and in pieces whose
sizes come from byte 0.

Permitted outcomes, and no other:
- the same completed messages and control frames from all three, in the same order;
- no error, or the same one of ERROR_PROTOCOL, ERROR_UTF8 and ERROR_TOO_BIG;
- of the message that was cut off by the end of the stream, the same bytes; of one
  cut off by an error, a prefix of what the byte-by-byte read saw: runs before the
  bad byte are handed on only when they came in an earlier piece;
- nothing after a close frame is looked at.
"""

from __future__ import annotations

import random

from proxy_engine_core._testing import websocket

# A completed message or control frame: (kind, opcode, close code, payload).
Item = tuple[int, int, int, bytes]
Outcome = tuple[list[Item], bytes, int]

ERRORS = (0, websocket.ERROR_PROTOCOL, websocket.ERROR_UTF8, websocket.ERROR_TOO_BIG)
SIZE_MAX = 300  # bytes a message; with bit 2 of the settings


def read(pieces: list[bytes], settings: int) -> Outcome:
    reader = websocket.Reader(
        is_server=bool(settings & 1),
        text_allowed=not settings & 2,
        message_size_max=SIZE_MAX if settings & 4 else 0,
    )
    items: list[Item] = []
    message = b""
    for piece in pieces:
        for kind, opcode, is_end, close_code, data in reader.feed(piece):
            if kind == websocket.EVENT_DATA:
                message += data
                assert not settings & 4 or len(message) <= SIZE_MAX
                if is_end:
                    items.append((kind, opcode, 0, message))
                    message = b""
            else:
                assert is_end and len(data) <= 125
                items.append((kind, opcode, close_code, data))
                if kind == websocket.EVENT_CLOSE:
                    return items, message, 0
    return items, message, reader.error


def split(stream: bytes, seed: int) -> list[bytes]:
    pick = random.Random(seed)
    size_max = pick.choice((2, 3, 7, 16, 64, 200))
    pieces = []
    while stream:
        size = pick.randint(1, size_max)
        pieces.append(stream[:size])
        stream = stream[size:]
    return pieces


def one_input(data: bytes) -> None:
    if len(data) < 2:
        return
    seed, settings, stream = data[0], data[1], data[2:]
    fine = read([stream[i : i + 1] for i in range(len(stream))], settings)
    assert fine[2] in ERRORS, f"unknown error {fine[2]}"
    for name, pieces in (("whole", [stream]), ("split", split(stream, seed))):
        items, message, error = read(pieces, settings)
        assert (items, error) == (fine[0], fine[2]), f"{name}: {items} {error} against {fine}"
        same = fine[1].startswith(message) if error else fine[1] == message
        assert same, f"{name}: {message!r} against {fine[1]!r}"


def frame(
    opcode: int, payload: bytes, *, final: bool = True, key: bytes | None = b"\1\2\3\4"
) -> bytes:
    header: bytes = websocket.header_encode(opcode, final, len(payload), key)
    return header + (websocket.mask(payload, key)[0] if key else payload)


def seed_streams() -> list[bytes]:
    to_server = [
        frame(1, "Grüße, 世界 😀".encode()),
        frame(2, bytes(range(256))) + frame(9, b"ping") + frame(10, b""),
        frame(1, b"a\xc3", final=False) + frame(9, b"!") + frame(0, b"\xb6z"),
        frame(2, b"", final=False) + frame(0, b"", final=False) + frame(0, b""),
        frame(8, b"\x03\xe8bye") + frame(2, b"late"),
        frame(8, b"") + frame(1, b"late"),
        frame(2, b"x" * 65536)[:3000],
    ]
    to_client = [
        frame(1, b"Hello", key=None) + frame(9, b"p", key=None),
        frame(2, b"y" * 130, key=None),
    ]
    made = [b"\x07\x01" + stream for stream in to_server]
    made += [b"\x2a\x05" + stream for stream in to_server[:3]]
    return made + [b"\x11\x00" + stream for stream in to_client]


SEEDS: list[bytes] = seed_streams()
DICTIONARY: list[bytes] = [
    frame(1, b"hi"),
    frame(2, b"hi", final=False),
    frame(0, b"hi"),
    frame(0, b"hi", final=False),
    frame(9, b""),
    frame(10, b"p"),
    frame(8, b""),
    frame(8, b"\x03\xe8"),
    frame(8, b"\x03\xed"),
    frame(1, b"hi", key=None),
    frame(8, b"\x13\x88", key=None),
    b"\x81\x80\0\0\0\0",
    b"\x82\xfe\x00\x7e\0\0\0\0",
    b"\x82\xff\0\0\0\0\0\1\0\0\0\0\0\0",
    b"\x82\x7e\x00\x7d",
    b"\xc1",
    b"\x83",
    b"\x8b",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"\xe2\x82\xac",
    b"\xf0\x9f\x98\x80",
]
