"""Many at once: a thousand clients, and slow readers who slow nobody but themselves."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.fixtures import target_of_file
from tests.e2e.harness import Visitor, wait_until
from tests.e2e.site import Growth, Site
from tests.e2e.slowreader import SlowReader, no_longer_moving, owed_size
from tests.e2e.target import TargetProcess, pattern_sha256

CLIENTS = 1000
STREAMS = 200
MIB = 1 << 20
SLOW_SIZE = 24 * MIB
# A visitor who reads nothing keeps at most its window (1 MiB) in the server; the pool's size
# classes and the allocator may round that up to twice as much.
SLOW_KIB_MAX = 2 * 1024
# A slow reader must cost others nothing; on a shared machine a turn may come late.
LATENCY_FACTOR_MAX = 5.0
LATENCY_FLOOR = 0.1  # seconds; below it a factor says nothing
SERIES = 3  # of requests: somebody else on the machine may disturb one


target = target_of_file()


@pytest.fixture(params=["tcp", "ws"])
def site(tmp_path: Path, target: TargetProcess, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(tmp_path / "data")
    site.connect({"web": target.port}, transport=request.param)
    yield site
    site.close()


def ask(visitor: Visitor, path: str) -> None:
    visitor.send(f"GET {path} HTTP/1.1\r\nHost: web.localhost\r\n\r\n".encode())


@pytest.mark.parametrize("site", ["tcp"], indirect=True)
def test_a_thousand_clients_get_only_good_answers(site: Site) -> None:
    before = site.fds()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CLIENTS}", "-d3s", "--timeout", "60s", "-H", "Host: web.localhost",
         f"http://127.0.0.1:{site.port}/kib"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found is not None and int(found[1]) > CLIENTS, done.stdout
    # wrk mentions these only when there are some.
    assert "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout, done.stdout
    stats = site.settled()
    # wrk leaves in the middle of its last requests; nothing else may have gone wrong.
    assert stats["requests_aborted"] <= CLIENTS
    assert stats["responses_local"] == stats["memory_errors"] == stats["timeouts"] == 0
    # Idle streams are given back within seconds, and their connections with them.
    wait_until(lambda: all(now <= was for now, was in zip(site.fds(), before, strict=True)))


def latencies(port: int, clients: int, rounds: int) -> list[float]:
    """Seconds of every request of `clients` visitors that ask `rounds` times each."""
    found: list[float] = []
    visitors = [Visitor(port) for _ in range(clients)]
    for _ in range(rounds):
        # All at once, so that every stream is in use at the same time.
        started = time.monotonic()
        for visitor in visitors:
            ask(visitor, "/kib")
        for visitor in visitors:
            response = visitor.response()
            assert (response.status, len(response.body)) == (200, 1024)
            found.append(time.monotonic() - started)
    for visitor in visitors:
        visitor.socket.close()
    return sorted(found)


def p99(sorted_values: list[float]) -> float:
    return sorted_values[len(sorted_values) * 99 // 100]


def test_slow_readers_slow_nobody_else_and_get_every_byte(site: Site) -> None:
    alone = p99(latencies(site.port, STREAMS, 10))
    expected = pattern_sha256(SLOW_SIZE)
    growth = Growth([site.server.popen.pid])
    slow: list[SlowReader] = []
    for count in (1, 8):
        while len(slow) < count:
            slow.append(SlowReader(site.port, SLOW_SIZE))
        wait_until(no_longer_moving(site, MIB))
        series = (p99(latencies(site.port, STREAMS - count, 10)) for _ in range(SERIES))
        assert any(each < max(LATENCY_FACTOR_MAX * alone, LATENCY_FLOOR) for each in series), alone
        growth.look()
        assert growth.mib[0] * 1024 < SLOW_KIB_MAX * count + 2048, growth.mib
    with ThreadPoolExecutor(len(slow)) as threads:
        digests = list(threads.map(SlowReader.read_all, slow))
    assert digests == [expected] * len(slow)
    site.settled()


SHORT_TIMEOUTS = {"linger_timeout_ms": 200, "keepalive_timeout_ms": 200}


@pytest.mark.parametrize("fields", [(), ("Connection: close",)], ids=["keep-alive", "close"])
def test_a_reader_slower_than_the_timeouts_between_requests_gets_every_byte(
    tmp_path: Path, target: TargetProcess, fields: tuple[str, ...]
) -> None:
    # The answer has ended in the server, but the visitor is still owed half a window of it.
    site = Site(tmp_path / "data", engine=SHORT_TIMEOUTS)
    try:
        site.connect({"web": target.port})
        size = owed_size(site)
        reader = SlowReader(site.port, size, *fields)
        wait_until(lambda: site.stats()["responses"] == 1)
        assert site.stats()["buffer_bytes"] > 0
        end = time.monotonic() + 0.8
        wait_until(lambda: time.monotonic() > end)
        assert reader.read_all() == pattern_sha256(size)
        site.settled()
    finally:
        site.close()
