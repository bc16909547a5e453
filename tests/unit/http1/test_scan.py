"""Byte classes, and the SIMD scans against the portable ones."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest

from proxy_engine_core._testing import http1

ALNUM = set((string.ascii_letters + string.digits).encode())
TOKEN = ALNUM | set(b"!#$%&'*+-.^_`|~")
CLASSES = {
    1: TOKEN,
    2: TOKEN - set(b"_"),
    4: {9} | set(range(0x20, 0x7F)) | set(range(0x80, 0x100)),
    8: set(range(0x21, 0x7F)) - set(b"#\\"),
    16: ALNUM | set(b"-._~"),
    32: set(string.hexdigits.encode()) | set(b":."),
    64: ALNUM | set(b"._:/+=@-"),
}


@pytest.mark.parametrize("bit", CLASSES)
def test_byte_class_holds_exactly_its_bytes(bit: int) -> None:
    assert {byte for byte in range(256) if http1.char_class(byte) & bit} == CLASSES[bit]


@pytest.mark.parametrize(
    ("scan", "members"),
    [
        (http1.scan_name_both, CLASSES[2]),
        (http1.scan_text_both, CLASSES[4]),
        (http1.scan_target_both, CLASSES[8]),
    ],
)
def test_scan_stops_at_the_first_byte_outside_its_class(
    scan: Callable[[bytes], tuple[int, int]], members: set[int]
) -> None:
    for byte in range(256):
        for at in (0, 1, 15, 16, 17, 31, 40):
            source = b"a" * at + bytes([byte]) + b"a" * 20
            expected = len(source) if byte in members else at
            assert scan(source) == (expected, expected)


def test_scan_for_the_end_of_a_head_is_not_fooled_by_line_ends() -> None:
    for noise in (b"\n\n\n\n", b"\r\n\r\r\n", b"\n\r\n\r", b"a\n\n\nb\n", b"\r\r\n\n"):
        for before in range(36):
            source = b"a" * before + noise * 8 + b"b\r\n\r\n" + b"c" * 20
            expected = source.find(b"\r\n\r\n")
            assert http1.scan_head_end_both(source) == (expected, expected)


def test_scan_of_nothing_is_its_end() -> None:
    assert http1.scan_head_end_both(b"\r\n\r") == (3, 3)
    assert http1.scan_text_both(b"") == (0, 0)


def test_names_are_compared_without_case() -> None:
    assert http1.is_equal_lower(b"CoNtEnT-LeNgTh", b"content-length")
    assert not http1.is_equal_lower(b"content-lengti", b"content-length")
    assert not http1.is_equal_lower(b"dontent-length", b"content-length")
