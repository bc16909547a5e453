"""Fuzz the preamble of a stream (PROXY protocol v2) with what a hostile server may send.

Permitted outcomes: more is needed (0), refused (-1), or a size within the input, and then
the same for every longer input and "more" for every shorter one. A tunnel is a part of the
header. Reading beyond the end is for AddressSanitizer to see.
"""

from __future__ import annotations

from proxy_engine_core._testing.core_parts import PREAMBLE_MAX, parse_preamble, preamble

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

SEEDS = [
    preamble(b"web") + b"GET / HTTP/1.1\r\n\r\n",
    preamble(b"n" * 63),
    SIGNATURE + b"\x21\x11\x00\x12" + bytes(12) + b"\xe0\x00\x03web",
    SIGNATURE + b"\x21\x21\x00\x2a" + bytes(36) + b"\xe0\x00\x03web",
    SIGNATURE + b"\x20\x00\x00\x0a" + b"\x04\x00\x01x" + b"\xe0\x00\x03web",
]
DICTIONARY = [
    SIGNATURE,
    b"\x20\x00",
    b"\x21\x11",
    b"\x21\x22",
    b"\xe0\x00\x03",
    b"\x02\x00",
    b"\xff\xff",
]


def one_input(data: bytes) -> None:
    if not data:
        return
    used, tunnel = parse_preamble(data)
    assert -1 <= used <= min(len(data), PREAMBLE_MAX)
    assert tunnel is None or (used > 0 and tunnel in data[16:used])
    if used > 0:
        assert parse_preamble(data + b"more") == (used, tunnel)
        for size in range(1, used):
            assert parse_preamble(data[:size]) == (0, None)
    elif used < 0:
        assert parse_preamble(data + b"more") == (-1, None)
