"""The traceparent field of W3C Trace Context."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_engine_core._testing.http1 import read_traceparent, write_traceparent

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"

# The grammar of level 1, and what its section 4.3 asks of versions that are not known yet.
VALID = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?",
    re.DOTALL,
)


def wanted(value: bytes) -> tuple[bytes, bytes, int] | None:
    match = VALID.fullmatch(value.decode("latin-1"))
    if match is None or (match["version"] == "00" and match["rest"] is not None):
        return None
    flags = int(match["flags"], 16) & 1
    return bytes.fromhex(match["trace"]), bytes.fromhex(match["parent"]), flags


def test_the_example_of_the_standard() -> None:
    ids = bytes.fromhex(TRACE), bytes.fromhex(PARENT)
    assert read_traceparent(GOOD.encode()) == (*ids, 1)
    assert read_traceparent(GOOD[:-1].encode() + b"0") == (*ids, 0)
    assert write_traceparent(*ids, 1) == GOOD.encode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        GOOD[:-1],
        GOOD + "-",
        GOOD + "-what-comes",
        GOOD + " ",
        GOOD.upper(),
        "ff" + GOOD[2:],
        "0g" + GOOD[2:],
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0x",
        f"00-{TRACE}-{PARENT}_01",
        f"00_{TRACE}-{PARENT}-01",
        f"00-{TRACE}_{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE}-{PARENT[:-1]}G-01",
        f"00-{TRACE}-{PARENT}-01,{GOOD}",
        f"01-{TRACE}-{PARENT}-01x",
        f"01-{TRACE}-{PARENT}-0",
    ],
)
def test_what_is_not_valid_is_no_trace(value: str) -> None:
    assert read_traceparent(value.encode()) is None
    assert wanted(value.encode()) is None


@pytest.mark.parametrize(
    "value", ["01" + GOOD[2:], "fe" + GOOD[2:] + "-more", "01" + GOOD[2:] + "-"]
)
def test_versions_to_come_are_read_as_00(value: str) -> None:
    assert read_traceparent(value.encode()) == (bytes.fromhex(TRACE), bytes.fromhex(PARENT), 1)


def test_flags_that_nobody_knows_yet_are_dropped() -> None:
    found = read_traceparent((GOOD[:-2] + "ff").encode())
    assert found is not None and found[2] == 1


@given(st.integers(0, 255), st.integers(0, 54), st.binary(max_size=3))
def test_any_byte_anywhere_is_read_as_the_grammar_says(
    byte: int, place: int, behind: bytes
) -> None:
    value = bytearray(GOOD.encode())
    value[place] = byte
    value += behind
    assert read_traceparent(bytes(value)) == wanted(bytes(value))


@given(st.binary(max_size=80) | st.text("0123456789abcdef-", max_size=60).map(str.encode))
def test_noise_is_read_as_the_grammar_says(value: bytes) -> None:
    assert read_traceparent(value) == wanted(value)


@given(
    st.binary(min_size=16, max_size=16).filter(any),
    st.binary(min_size=8, max_size=8).filter(any),
    st.integers(0, 1),
)
def test_what_is_written_is_read(trace_id: bytes, span_id: bytes, flags: int) -> None:
    assert read_traceparent(write_traceparent(trace_id, span_id, flags)) == (
        trace_id, span_id, flags,
    )  # fmt: skip
