"""Laws of http1/: splits do not matter, encoding is undone by decoding, what we rewrite
every parser reads as we do, and where other parsers differ we are the stricter one."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_engine_core._testing import http1
from tests.property.http1_httptools import (
    CHUNKED,
    WORDS,
    Seen,
    body_for,
    check_with_httptools,
    kept,
)

ROOT = Path(__file__).parents[2]
REQUESTS = json.loads((ROOT / "tests" / "vectors" / "http1" / "requests.json").read_text())

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.text(TOKEN, min_size=1, max_size=20).map(str.encode)
values = st.binary(max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127).strip(b" \t")
)
known_fields = st.sampled_from(
    [
        (b"Connection", b"keep-alive"),
        (b"Connection", b"close, x-one"),
        (b"X-One", b"1"),
        (b"Accept", b"text/html"),
        (b"TE", b"trailers"),
        (b"Keep-Alive", b"5"),
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"X-Request-Id", b"abc"),
        (b"Cookie", b"a=b"),
    ]
)
fields_lists = st.lists(st.one_of(st.tuples(names, values), known_fields), max_size=12)
paths = st.text("abc/?%&=.~0123", max_size=30).map(lambda text: b"/" + text.encode())
framings = st.sampled_from(
    [b"", b"Content-Length: 0\r\n", b"Content-Length: 17\r\n", b"Transfer-Encoding: chunked\r\n"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PROPFIND"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    framing = draw(framings)
    if version == b"1.0" and framing.startswith(b"T"):
        framing = b""
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in draw(fields_lists))
    line = method + b" " + draw(paths) + b" HTTP/" + version + b"\r\n"
    return line + b"Host: a.example\r\n" + lines + framing + b"\r\n"


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edges = [0, *cuts, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.data(), st.text("ab\r\n", max_size=60))
def test_end_of_a_head_is_the_same_for_any_split(data: st.DataObject, text: str) -> None:
    source = text.encode()
    expected = source.find(b"\r\n\r\n")
    expected = 0 if expected < 0 else expected + 4
    assert http1.find_end([source])[0] == expected
    parts = data.draw(pieces(source))
    found, used = http1.find_end(parts)
    assert found == expected
    if found:
        assert sum(map(len, parts[: used - 1])) < found <= sum(map(len, parts[:used]))


@given(st.data(), st.lists(st.binary(min_size=1, max_size=400), max_size=8))
def test_chunks_are_decoded_to_what_was_encoded(data: st.DataObject, chunks: list[bytes]) -> None:
    encoded = b"".join(http1.chunk_size_line(len(x)) + x + b"\r\n" for x in chunks)
    encoded += b"0\r\nX-Sum: 1\r\n\r\n"
    rest = data.draw(st.binary(max_size=10))
    result = http1.read_chunks(data.draw(pieces(encoded + rest)), False)
    assert result == (b"".join(chunks), "end", len(encoded))


@given(st.integers(1, 2**32 - 1))
def test_chunk_size_line_is_lower_case_hexadecimal(size: int) -> None:
    assert http1.chunk_size_line(size) == b"%x\r\n" % size


@given(st.data(), st.lists(st.sampled_from([*WORDS, b"5", b"hello"]), max_size=12))
def test_bad_chunks_are_refused_alike_for_any_split(
    data: st.DataObject, parts: list[bytes]
) -> None:
    source = b"".join(parts)
    whole = http1.read_chunks([source], True)
    assert http1.read_chunks(data.draw(pieces(source)), True)[:2] == whole[:2]


@given(requests())
def test_precheck_refuses_no_start_of_an_accepted_head(source: bytes) -> None:
    if isinstance(http1.parse_request(source), dict):
        for size in range(len(source)):
            assert http1.precheck(source[:size]) == ""


def read_by_h11(message: bytes) -> tuple[h11.Request, bytes]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(message)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    body = b""
    while not isinstance(following := connection.next_event(), h11.EndOfMessage):
        assert isinstance(following, h11.Data)
        body += following.data
    return event, body


def read_by_httptools(message: bytes) -> tuple[bytes, Any, bytes]:
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(message)
    assert seen.is_complete
    return parser.get_method(), seen, bytes(seen.body)


@settings(max_examples=300)
@given(requests())
def test_rewritten_request_is_read_alike_by_everyone(source: bytes) -> None:
    head = http1.parse_request(source)
    if isinstance(head, str):
        # Only what the strategy can do wrong: framing or routing names drawn by chance.
        assert head in ("bad_field", "bad_host", "bad_content_length")
        return
    written = http1.rewrite_request(source)
    again = http1.parse_request(written)
    assert isinstance(again, dict)
    assert kept(again) == kept(head)
    assert [again[key] for key in ("method", "path", "framing", "content_length")] == [
        head[key] for key in ("method", "path", "framing", "content_length")
    ]
    sent = body_for(head)
    assert sent is not None
    body = b"abc" if head["framing"] == CHUNKED else sent
    ours = [(name.lower(), value) for name, value, _ in again["fields"]]

    request, data = read_by_h11(written + sent)
    assert (request.method, request.target, data) == (head["method_name"], head["path"], body)
    assert [(bytes(name), bytes(value)) for name, value in request.headers] == ours

    method, seen, data = read_by_httptools(written + sent)
    assert (method, seen.target, data) == (head["method_name"], head["path"], body)
    assert seen.fields == ours


# What others accept and we refuse, by the reason we give. Both directions are asserted:
# nothing is missing and nothing is stale. What we accept others may refuse, but must
# never read differently (check_with_httptools).
STRICTER_THAN_HTTPTOOLS = {
    "bad_request_line": "two spaces, no version (HTTP/0.9), an empty line before it",
    "bad_version": "two spaces before the version, HTTP/0.9",
    "version_unsupported": "HTTP/2.0 and its preface",
    "method_not_allowed": "CONNECT, TRACE",
    "bad_target": "fragments, backslashes, other schemes, * without OPTIONS, http://host?query",
    "bad_field": "underscore twins, malformed Connection, nomination floods, X-Proxy-Tunnel twice",
    "bad_host": "Host is not looked at",
    "bad_content_length": "leading zeros",
    "content_length_too_big": "up to 2^64 - 1",
    "bad_transfer_encoding": "lists that end in chunked, chunked in HTTP/1.0",
    "bad_expect": "Expect is not looked at",
    "bad_upgrade": "Upgrade is not looked at",
    "line_too_long": "no limit",
    "too_large": "no limit",
}
STRICTER_THAN_H11 = {
    "bad_request_line": "methods of any length",
    "bad_version": "HTTP/0.9",
    "version_unsupported": "any other digits are left to the application",
    "method_not_allowed": "any token is a method",
    "bad_target": "any visible ASCII is a target",
    "bad_field": "folded lines, control characters in values, and what httptools allows",
    "bad_line_end": "bare LF ends a line",
    "bad_host": "Host is counted, not read",
    "bad_content_length": "leading zeros, equal ones in a list or in several fields",
    "content_length_too_big": "up to 20 digits",
    "bad_transfer_encoding": "chunked in HTTP/1.0",
    "ambiguous_length": "Content-Length is ignored beside chunked",
    "bad_expect": "Expect is not looked at",
    "bad_upgrade": "Upgrade is not looked at",
    "line_too_long": "no limit of its own",
    "too_large": "no limit on complete heads",
}


def latin_1(text: str) -> bytes:
    return text.encode("latin-1")


def is_accepted_by_httptools(raw: bytes) -> bool:
    try:
        httptools.HttpRequestParser(Seen()).feed_data(raw)
    except httptools.HttpParserUpgrade:
        return True
    except httptools.HttpParserError:
        return False
    return True


def is_accepted_by_h11(raw: bytes) -> bool:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    try:
        return isinstance(connection.next_event(), h11.Request)
    except h11.RemoteProtocolError:
        return False


@pytest.mark.parametrize(
    ("is_accepted", "stricter"),
    [
        (is_accepted_by_httptools, STRICTER_THAN_HTTPTOOLS),
        (is_accepted_by_h11, STRICTER_THAN_H11),
    ],
    ids=["httptools", "h11"],
)
def test_where_we_refuse_and_others_accept_is_written_down(
    is_accepted: Callable[[bytes], bool], stricter: dict[str, str]
) -> None:
    refused = [vector for vector in REQUESTS if vector["expect"] != "accepted"]
    reasons = {vector["expect"] for vector in refused if is_accepted(latin_1(vector["raw"]))}
    assert reasons == set(stricter)


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector["name"])
def test_what_we_accept_is_not_read_differently_by_httptools(vector: dict[str, str]) -> None:
    if vector["expect"] == "accepted":
        raw = latin_1(vector["raw"])
        head = http1.parse_request(raw)
        assert isinstance(head, dict)
        check_with_httptools(head, http1.rewrite_request(raw))


def mutated(chooser: random.Random, sources: list[bytes]) -> bytes:
    data = bytearray(chooser.choice(sources))
    for _ in range(chooser.randrange(4)):
        at = chooser.randrange(len(data) + 1)
        change = chooser.randrange(3)
        if change == 0:
            data[at:at] = chooser.choice(WORDS)
        elif change == 1:
            del data[at : at + chooser.randrange(1, 4)]
        else:
            data[at:at] = bytes([chooser.randrange(256)])
    return bytes(data)


def test_mutated_requests_are_not_read_differently_by_httptools() -> None:
    accepted = [latin_1(vector["raw"]) for vector in REQUESTS if vector["expect"] == "accepted"]
    chooser = random.Random(20261122)
    for _ in range(4000):
        source = mutated(chooser, accepted)
        size, _ = http1.find_end([source])
        head = http1.parse_request(source[:size])
        if size and isinstance(head, dict):
            check_with_httptools(head, http1.rewrite_request(source[:size]))
