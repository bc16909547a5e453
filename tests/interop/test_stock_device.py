"""A device that is only hashicorp/yamux and Go's net/http, against a real server.

It knows nothing of us but the Upgrade request: no version, no control stream. The tunnel is
the one named like the device, in lower case.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import random
import select
import shutil
import socket
import subprocess
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.harness import Response, Truncated, wait_until
from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site
from tests.e2e.slowreader import SlowReader, no_longer_moving

GO = shutil.which("go")
SOURCE = Path(__file__).parent / "yamux_go"
NAME = "Stock"
HOST = "stock.localhost"
STOCK_WINDOW = 256 * 1024
STREAMS_MAX = 500
CLIENTS, REQUESTS = 50, 20
BULK = 50_000_000
SLOW_BYTES_MAX = 12 << 20  # windows, and what the kernel holds for a visitor who does not read

pytestmark = [
    pytest.mark.skipif(GO is None, reason="needs the Go toolchain"),
    pytest.mark.skipif(
        importlib.util.find_spec("proxy_engine_core.core") is None, reason="needs the engine built"
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert GO is not None
    target = tmp_path_factory.mktemp("stock_device") / "device"
    subprocess.run([GO, "build", "-o", target, "./device"], cwd=SOURCE, check=True, timeout=600)
    return target


class Stock:
    """A server, and as many runs of the device as wanted; all with one token."""

    def __init__(self, program: Path, data_dir: Path) -> None:
        self.program = program
        self.site = Site(data_dir)
        self.token = self.site.make_token(NAME)
        self.runs: list[subprocess.Popen[str]] = []

    def start(self, token: str = "") -> subprocess.Popen[str]:
        run = subprocess.Popen(
            [self.program, "-address", f"127.0.0.1:{self.site.port}"],
            env={**os.environ, "TOKEN": token or self.token},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.runs.append(run)
        return run

    def start_online(self) -> subprocess.Popen[str]:
        run = self.start()
        self.site.wait_online("stock")
        return run

    def get(self, path: str) -> Response:
        return self.site.get("stock", path)

    def check_settled(self) -> None:
        """Every request had an outcome, and nobody had a reason to complain of the other."""
        stats = self.site.settled()
        assert stats["link_protocol_errors"] == stats["memory_errors"] == 0, stats
        assert self.site.server.popen.poll() is None

    def close(self) -> None:
        for run in self.runs:
            if run.poll() is None:
                run.kill()
            run.communicate()
        self.site.close()


@pytest.fixture
def stock(program: Path, tmp_path: Path) -> Iterator[Stock]:
    stock = Stock(program, tmp_path / "data")
    yield stock
    stock.close()


@pytest.fixture(scope="module")
def shared(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """For tests that leave the device as it was."""
    stock = Stock(program, tmp_path_factory.mktemp("stock") / "data")
    stock.start_online()
    yield stock
    stock.close()


def request(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {HOST}", *fields, "", ""]).encode()


def failure(answer: Response) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def numbers(size: int) -> bytes:
    """What /bulk sends."""
    found = array("Q", range(size // 8))
    found.byteswap()
    return found.tobytes()


def test_a_request_is_answered_by_the_tunnel_named_like_the_device(shared: Stock) -> None:
    answer = shared.get("/hello?you")
    assert (answer.status, answer.body) == (200, b"hello you")
    [tunnel] = shared.site.api("/api/v1/tunnels")["items"]
    assert (tunnel["name"], tunnel["device"], tunnel["is_online"]) == ("stock", NAME, True)


@pytest.mark.parametrize("size", [0, 1, STOCK_WINDOW, 5_000_000])
def test_a_body_comes_back_exactly(shared: Stock, size: int) -> None:
    body = random.Random(size).randbytes(size)
    with ThreadPoolExecutor(1) as pool, shared.site.visitor() as visitor:
        sent = pool.submit(visitor.send, request("POST /echo", f"Content-Length: {size}") + body)
        answer = visitor.response()
        sent.result()
    assert answer.body == body
    assert answer.values("content-sha256") == [hashlib.sha256(body).hexdigest()]


def test_chunks_pass_both_ways(shared: Stock) -> None:
    lines = [b"%d\n" % number for number in range(300)]
    assert shared.get("/chunks?n=300").body == b"".join(lines)
    with shared.site.visitor() as visitor:
        visitor.send(request("POST /echo", "Transfer-Encoding: chunked"))
        for line in lines:
            visitor.send(b"%x\r\n%b\r\n" % (len(line), line))
        visitor.send(b"0\r\n\r\n")
        assert visitor.response().body == b"".join(lines)


def test_head_and_expect_are_the_http_servers_business(shared: Stock) -> None:
    with shared.site.visitor() as visitor:
        visitor.send(request("HEAD /bulk?n=800"))
        answer = visitor.response("HEAD")
        assert answer.values("content-length") == ["800"]
        visitor.send(request("POST /echo", "Content-Length: 3", "Expect: 100-continue"))
        assert visitor.head().status == 100
        visitor.send(b"abc")
        assert visitor.response().body == b"abc"


def test_an_upload_that_nobody_reads_ends_with_its_answer(shared: Stock) -> None:
    body = bytes(5_000_000)
    with ThreadPoolExecutor(1) as pool, shared.site.visitor() as visitor:
        visitor.send(request("POST /hello?n", f"Content-Length: {len(body)}"))
        rest = pool.submit(visitor.send, body)
        assert visitor.response().body == b"hello n"
        with contextlib.suppress(OSError):  # closed by the server already
            visitor.socket.shutdown(socket.SHUT_RDWR)  # wakes the sender
        rest.exception()
    assert shared.get("/hello?next").body == b"hello next"
    shared.check_settled()


def test_fifty_keep_alive_clients_get_each_their_own_answers(shared: Stock) -> None:
    before = shared.site.settled()

    def ask_all(client: int) -> None:
        with shared.site.visitor() as visitor:
            for number in range(REQUESTS):
                visitor.send(request(f"GET /hello?{client}-{number}"))
                answer = visitor.response()
                assert (answer.status, answer.body) == (200, f"hello {client}-{number}".encode())

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask_all, range(CLIENTS)))
    after = shared.site.settled()
    assert after["responses"] - before["responses"] == CLIENTS * REQUESTS
    assert after["responses_local"] == before["responses_local"]
    shared.check_settled()


def test_streams_beyond_what_a_stock_peer_gets_wait_for_a_free_one(shared: Stock) -> None:
    with contextlib.ExitStack() as stack:
        first, *others, last = [shared.site.visitor() for _ in range(STREAMS_MAX + 1)]
        for visitor in [*others, last]:
            # Not just closed: who only finished sending may still be reading.
            stack.callback(visitor.reset)
        for visitor in (first, *others):
            visitor.send(request("GET /cut"))
        assert {visitor.head().status for visitor in (first, *others)} == {200}
        queued = shared.site.stats()["requests_queued"]
        last.send(request("GET /cut"))
        wait_until(lambda: shared.site.stats()["requests_queued"] == queued + 1)
        assert select.select([last.socket], [], [], 0) == ([], [], [])
        first.reset()
        assert last.head().status == 200
    shared.check_settled()


def test_fifty_megabytes_come_down_exactly(shared: Stock) -> None:
    client = http.client.HTTPConnection("127.0.0.1", shared.site.port, timeout=TIMEOUT)
    with contextlib.closing(client):
        client.request("GET", f"/bulk?n={BULK}", headers={"Host": HOST})
        assert client.getresponse().read() == numbers(BULK)


def test_a_reader_who_waits_holds_up_nobody_and_loses_nothing(shared: Stock) -> None:
    size = 32_000_000
    before = shared.site.stats()["link_bytes_in"]
    reader = SlowReader(shared.site.port, size, host=HOST)
    wait_until(no_longer_moving(shared.site, before + STOCK_WINDOW))
    assert shared.site.stats()["link_bytes_in"] - before < SLOW_BYTES_MAX
    assert shared.get("/hello?other").body == b"hello other"
    assert reader.read_all() == hashlib.sha256(numbers(size)).hexdigest()
    shared.check_settled()


def test_a_visitor_who_leaves_takes_no_other_along(shared: Stock) -> None:
    aborted = shared.site.stats()["requests_aborted"]
    with shared.site.visitor() as stays:
        stays.send(request("GET /hello?1"))
        assert stays.response().body == b"hello 1"
        with shared.site.visitor() as leaves:
            leaves.send(request(f"GET /bulk?n={BULK}"))
            assert leaves.head().status == 200
            leaves.reset()
        wait_until(lambda: shared.site.stats()["requests_aborted"] == aborted + 1)
        stays.send(request("GET /hello?2"))
        assert stays.response().body == b"hello 2"
    shared.check_settled()


def test_a_killed_device_fails_what_it_owes_and_serves_again_when_back(stock: Stock) -> None:
    run = stock.start_online()
    with stock.site.visitor() as waits, stock.site.visitor() as reads:
        waits.send(request("GET /hang"))
        wait_until(lambda: stock.site.stats()["streams_opened"] == 1)
        reads.send(request("GET /cut"))
        assert reads.head().status == 200
        assert reads.take_until(b"begun\r\n")
        run.kill()
        assert failure(waits.response()) == (502, "link_lost")
        with pytest.raises(Truncated):
            reads.take(1)
    stock.site.wait_online("stock", online=False)
    assert failure(stock.get("/hello")) == (503, "device_offline")
    stock.start_online()
    assert stock.get("/hello?back").body == b"hello back"
    stock.check_settled()


def test_the_newer_run_of_a_device_takes_over(stock: Stock) -> None:
    old = stock.start_online()
    new = stock.start()
    assert old.wait(TIMEOUT) == 0
    assert stock.get("/hello?new").body == b"hello new"
    assert new.poll() is None
    stock.check_settled()


def test_a_stopping_server_ends_the_session_and_a_new_one_takes_the_device(stock: Stock) -> None:
    run = stock.start_online()
    stock.site.server.signal()
    assert stock.site.server.exit_code() == 0
    assert run.wait(TIMEOUT) == 0
    stock.site.restart_server()
    stock.start_online()
    assert stock.get("/hello?again").body == b"hello again"


def test_a_wrong_token_is_refused_with_401(stock: Stock) -> None:
    run = stock.start(token="pe_" + "A" * 43)
    assert "refused: 401" in run.communicate(timeout=TIMEOUT)[1]
    assert run.returncode == 1
