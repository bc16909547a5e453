"""Heads and chunks: ns each, beside httptools and h11 doing the same from Python.

Our loops run natively inside one call, so the figure is the parser's and not the
wrapper's; the others can only be driven from Python, which is how they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
import httptools
import pytest

from proxy_engine_core._testing import http1

SMALL = b"GET / HTTP/1.1\r\nHost: web.example.com\r\nAccept: */*\r\n\r\n"
BROWSER = (
    b"GET /api/v1/items?page=2&sort=name HTTP/1.1\r\nHost: web.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: https://web.example.com/\r\nConnection: keep-alive\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
    b"Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1234\r\nConnection: keep-alive\r\n"
    b"Cache-Control: no-store\r\n\r\n"
)
HEADS = pytest.mark.parametrize("head", [SMALL, BROWSER], ids=["small", "browser"])
BIG_CHUNKS = (b"4000\r\n" + b"x" * 16384 + b"\r\n") * 8 + b"0\r\n\r\n"
SMALL_CHUNKS = b"5\r\nhello\r\n" * 1000 + b"0\r\n\r\n"
CHUNK_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def measure(benchmark: Any, call: Callable[[], object], rounds: int, unit: str) -> None:
    benchmark(call)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info[f"ns/{unit}"] = benchmark.stats.stats.min / rounds * 1e9


class Quiet:
    """A protocol without callbacks: the parsing alone."""


def parse_by_httptools(data: bytes) -> None:
    httptools.HttpRequestParser(Quiet()).feed_data(data)


def parse_by_h11(data: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    while connection.next_event() not in (h11.NEED_DATA, h11.PAUSED):
        pass


@HEADS
def test_parse_head(benchmark: Any, head: bytes) -> None:
    measure(benchmark, lambda: http1.bench_parse_request(head, 10_000), 10_000, "head")


@HEADS
def test_parse_head_httptools(benchmark: Any, head: bytes) -> None:
    measure(benchmark, lambda: parse_by_httptools(head), 1, "head")


@HEADS
def test_parse_head_h11(benchmark: Any, head: bytes) -> None:
    measure(benchmark, lambda: parse_by_h11(head), 1, "head")


@HEADS
def test_precheck_head(benchmark: Any, head: bytes) -> None:
    measure(benchmark, lambda: http1.bench_precheck(head[:-4], 10_000), 10_000, "head")


@HEADS
def test_rewrite_head(benchmark: Any, head: bytes) -> None:
    measure(benchmark, lambda: http1.bench_rewrite_request(head, 10_000), 10_000, "head")


def test_parse_response_head(benchmark: Any) -> None:
    measure(benchmark, lambda: http1.bench_parse_response(RESPONSE, 10_000), 10_000, "head")


@pytest.mark.parametrize(
    ("body", "chunks"), [(BIG_CHUNKS, 9), (SMALL_CHUNKS, 1001)], ids=["16KiB", "5B"]
)
def test_validate_chunks(benchmark: Any, body: bytes, chunks: int) -> None:
    rounds = 20
    measure(benchmark, lambda: http1.bench_chunks(body, rounds), rounds * chunks, "chunk")


@pytest.mark.parametrize(
    ("body", "chunks"), [(BIG_CHUNKS, 9), (SMALL_CHUNKS, 1001)], ids=["16KiB", "5B"]
)
def test_validate_chunks_httptools(benchmark: Any, body: bytes, chunks: int) -> None:
    measure(benchmark, lambda: parse_by_httptools(CHUNK_HEAD + body), chunks, "chunk")


@pytest.mark.parametrize(
    ("body", "chunks"), [(BIG_CHUNKS, 9), (SMALL_CHUNKS, 1001)], ids=["16KiB", "5B"]
)
def test_validate_chunks_h11(benchmark: Any, body: bytes, chunks: int) -> None:
    measure(benchmark, lambda: parse_by_h11(CHUNK_HEAD + body), chunks, "chunk")
