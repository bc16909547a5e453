"""Small requests beside bulk on one link: they do not wait behind it."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.faultproxy import FaultProxy
from tests.e2e.fixtures import target_of_file
from tests.e2e.harness import Visitor, wait_until
from tests.e2e.site import Site
from tests.e2e.target import TargetProcess

BULK = 8
REQUESTS = 200
RATE = 10e6  # bytes a second of the link: 256 KiB take 26 ms
SERIES = 3  # of requests: somebody else on the machine may disturb one


target = target_of_file()


@contextmanager
def downloads(port: int, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """This many downloads without an end, dropped unread."""
    command = ["curl", "--silent", "--output", "/dev/null", "--header", "Host: web.localhost"]
    curls = [subprocess.Popen([*command, f"http://127.0.0.1:{port}/endless"]) for _ in range(count)]
    try:
        yield curls
    finally:
        for curl in curls:
            curl.kill()
            curl.wait()


def latencies(port: int, count: int, tunnel: str = "web") -> list[float]:
    """Milliseconds of requests of 1 KiB, one after the other, sorted."""
    ask = f"GET /kib HTTP/1.1\r\nHost: {tunnel}.localhost\r\n\r\n".encode()
    found = []
    with Visitor(port) as visitor:
        for _ in range(count):
            started = time.monotonic()
            visitor.send(ask)
            assert len(visitor.response().body) == 1024
            found.append((time.monotonic() - started) * 1000)
    return sorted(found)


def quantiles(values: list[float]) -> str:
    return f"p50 {statistics.median(values):.1f} ms, p99 {values[len(values) * 99 // 100]:.1f} ms"


@pytest.mark.parametrize("transport", ["tcp", "ws"])
def test_small_requests_pass_bulk_on_a_slow_link(
    transport: str, target: TargetProcess, tmp_path: Path
) -> None:
    site = Site(tmp_path / "data")
    try:
        with FaultProxy(site.port, receive_buffer=32 * 1024) as line:
            line.rate, line.buffer = RATE, 0.01
            site.connect({"web": target.port}, transport=transport, server_port=line.port)
            alone = latencies(site.port, REQUESTS)
            with downloads(site.port, BULK):
                before = line.bytes_moved
                wait_until(lambda: line.bytes_moved > before + RATE)
                series: list[tuple[bool, str]] = []
                while len(series) < SERIES and not any(is_fair for is_fair, _ in series):
                    started, moved = time.monotonic(), line.bytes_moved
                    beside = latencies(site.port, REQUESTS)
                    rate = (line.bytes_moved - moved) / (time.monotonic() - started)
                    # What the kernel holds of the link goes first (TCP_NOTSENT_LOWAT, and what is
                    # in flight): about 20 ms. Nothing that waits in the agent does: 200 ms.
                    is_fair = rate > 0.5 * RATE and statistics.median(beside) < 40
                    series.append((is_fair, f"{quantiles(beside)}; bulk {rate / 1e6:.1f} MB/s"))
        print(f"alone {quantiles(alone)}; beside {series}")
        assert any(is_fair for is_fair, _ in series), series
    finally:
        site.close()
