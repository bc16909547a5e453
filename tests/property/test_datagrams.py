"""Datagrams on a stream come out as they went in, wherever the stream is cut."""

from __future__ import annotations

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from proxy_engine_core._testing.core_parts import datagrams

SIZE_MAX = 65_507


def packed(datagrams: list[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(each)) + each for each in datagrams)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[first:last] for first, last in itertools.pairwise(bounds)]


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(0, 10_000)))
def test_any_cut_gives_the_same(sent: list[bytes], places: list[int]) -> None:
    assert datagrams(cut(packed(sent), places)) == (sent, 0)


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(SIZE_MAX + 1, 0xFFFF), st.binary())
def test_a_longer_one_ends_it_behind_what_was_good(
    sent: list[bytes], size: int, rest: bytes
) -> None:
    whole = packed(sent) + struct.pack(">H", size)
    assert datagrams([whole + rest]) == (sent, -1)
    assert datagrams([whole[at : at + 1] for at in range(len(whole))]) == (sent, -1)


def test_the_largest_and_the_smallest() -> None:
    sent = [b"x" * SIZE_MAX, b"", b"y" * SIZE_MAX]
    whole = packed(sent)
    assert datagrams([whole]) == (sent, 0)
    assert datagrams(cut(whole, [1, 2, 3, 65_508, 65_509, 65_510])) == (sent, 0)
    assert datagrams([whole[:-1]]) == (sent[:2], 0)
