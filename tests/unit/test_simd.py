"""Masking and UTF-8 checking against the plain way of doing them."""

from __future__ import annotations

import random
from itertools import product

import pytest

from proxy_engine_core._testing import websocket

KEY = b"\x37\xfa\x21\x3d"
DATA = random.Random(6455).randbytes(70_000)

# Every border of RFC 3629, and what lies just beyond it.
UTF8_CASES = [
    b"",
    b"\x00\x7f",
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc2\x80",
    b"\xdf\xbf",
    b"\xdf\xc0",
    b"\xe0\x9f\xbf",
    b"\xe0\xa0\x80",
    b"\xec\x80\x80",
    b"\xed\x9f\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xee\x80\x80",
    b"\xef\xbf\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x90\x80\x80",
    b"\xf3\xbf\xbf\xbf",
    b"\xf4\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xc2\x20",
    b"\xe2\x82\x20",
    b"\xf0\x9f\x98\x20",
]


def naive_mask(data: bytes, key: bytes, phase: int) -> bytes:
    return bytes(byte ^ key[(phase + i) & 3] for i, byte in enumerate(data))


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("wide", [True, False])
def test_masking_equals_the_naive_xor_at_every_size_alignment_and_phase(wide: bool) -> None:
    expected = [naive_mask(DATA[:301], KEY, phase) for phase in range(4)]
    for alignment in range(64):
        for size in range(301):
            for phase in range(4):
                masked, next_phase = websocket.mask(DATA[:size], KEY, phase, alignment, wide)
                assert masked == expected[phase][:size]
                assert next_phase == (phase + size) % 4


@pytest.mark.parametrize("wide", [True, False])
def test_masking_a_long_run_in_pieces_equals_masking_it_at_once(wide: bool) -> None:
    whole, _ = websocket.mask(DATA, KEY, 0, 0, wide)
    pick = random.Random(1)
    pieces, phase, at = [], 0, 0
    while at < len(DATA):
        size = pick.randint(0, 2000)
        piece, phase = websocket.mask(DATA[at : at + size], KEY, phase, 3, wide)
        pieces.append(piece)
        at += size
    assert b"".join(pieces) == whole == naive_mask(DATA, KEY, 0)


@pytest.mark.parametrize("data", UTF8_CASES, ids=lambda data: data.hex() or "empty")
def test_utf8_borders_are_those_of_the_python_decoder(data: bytes) -> None:
    # Behind 0..40 bytes of ASCII: in, before and after the blocks that are skipped.
    for before in range(41):
        for after in (b"", b"z", b"z" * 40):
            text = b"a" * before + data + after
            assert websocket.utf8_check([text])[1] is is_utf8(text)


def test_utf8_agrees_with_python_on_every_two_bytes() -> None:
    for first in range(256):
        for second in range(256):
            text = bytes((first, second))
            assert websocket.utf8_check([text])[1] is is_utf8(text), text


def test_utf8_agrees_with_python_on_every_lead_and_second_byte_of_long_characters() -> None:
    for first in range(0xE0, 0x100):
        for second in range(256):
            for rest in (b"\x80", b"\xbf", b"\x80\x80", b"\xbf\xbf", b"\x80\x7f", b"\xc0\x80"):
                text = bytes((first, second)) + rest
                assert websocket.utf8_check([text])[1] is is_utf8(text), text


@pytest.mark.parametrize(
    "bad", [b"\xc0", b"\xe0\x9f", b"\xed\xa0", b"\xf0\x8f", b"\xf4\x90", b"\xe2\x82\x28", b"\x80"]
)
def test_utf8_fails_at_the_first_byte_that_no_text_goes_on_with(bad: bytes) -> None:
    assert websocket.utf8_check([bad[:-1]])[0] is True
    assert websocket.utf8_check([bad[:-1], bad[-1:]])[0] is False


def test_utf8_is_valid_so_far_but_may_not_end_within_a_character() -> None:
    text = "a😀".encode()
    for size in range(2, 5):
        assert websocket.utf8_check([text[:size]]) == (True, False)
    assert websocket.utf8_check([text]) == (True, True)


# Around every border of RFC 3629's table.
BORDERS = bytes.fromhex("41 80 8f 90 9f a0 bf c1 c2 df e0 e1 ed ef f0 f4 f5")


def test_every_run_of_four_border_bytes_within_longer_text_is_judged_as_python_does() -> None:
    # Across the border of two vectors, so that lookups, not the byte-by-byte rest, decide.
    before, behind = "é".encode() * 7, "東".encode() * 16
    for run in product(BORDERS, repeat=4):
        text = before + bytes(run) + behind
        assert websocket.utf8_check([text]) == (is_utf8(text),) * 2, bytes(run)
