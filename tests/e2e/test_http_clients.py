"""Streams as they come, and clients that people use."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.harness import Peer, Request, Tunnel, ok
from tests.e2e.processes import TIMEOUT

# --- as it comes ---


@pytest.mark.parametrize("coding", ["chunked", "until the end"])
def test_server_sent_events_arrive_one_by_one_and_at_once(any_tunnel: Tunnel, coding: str) -> None:
    """The target sends the next event only when the visitor has the one before."""
    count = 40
    go = asyncio.Semaphore(0)

    async def events(peer: Peer, request: Request) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        if coding == "chunked":
            head += b"Transfer-Encoding: chunked\r\n"
        await peer.send(head + b"\r\n")
        for number in range(count):
            await go.acquire()
            event = b"data: %d\n\n" % number
            if coding == "chunked":
                event = b"%x\r\n%b\r\n" % (len(event), event)
            await peer.send(event)
        if coding == "chunked":
            await peer.send(b"0\r\n\r\n")
        else:
            peer.close()

    any_tunnel.target.handler = events
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("GET /events HTTP/1.1", "Accept: text/event-stream"))
        assert visitor.head().values("content-type") == ["text/event-stream"]
        delays = []
        for number in range(count):
            start = time.monotonic()
            any_tunnel.target.soon(go.release)
            event = b"data: %d\n\n" % number
            chunk = b"%x\r\n%b\r\n" % (len(event), event)
            assert visitor.take(len(chunk)) == chunk
            delays.append(time.monotonic() - start)
        assert visitor.take(5) == b"0\r\n\r\n"
    # Nobody waits for more, or for an ACK (40 ms); a busy machine may be late with many of them.
    assert sorted(delays)[count // 4] < 0.02


def test_an_upload_reaches_the_target_as_it_comes(any_tunnel: Tunnel) -> None:
    """The visitor sends the next piece only when the target had the one before."""

    async def acknowledge(peer: Peer, request: Request) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await peer.read_until(b"piece\r\n")
            await peer.send(b".")
        await peer.read_until(b"0\r\n\r\n")

    any_tunnel.target.handler = acknowledge
    with any_tunnel.visitor() as visitor:
        visitor.send(any_tunnel.head("POST / HTTP/1.1", "Transfer-Encoding: chunked"))
        assert visitor.head().status == 200
        for _ in range(10):
            visitor.send(b"5\r\npiece\r\n")
            assert visitor.take(1) == b"."


# --- clients ---


async def echo(peer: Peer, request: Request) -> None:
    if request.values("expect"):
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await peer.body(request)
    answer = ok(body or request.path.encode(), f"X-Method: {request.method}")
    await peer.send(
        answer if request.method != "HEAD" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    )


# curl hangs with a sanitizer's runtime preloaded, which is for our own processes.
ENVIRON = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def curl(tunnel: Tunnel, path: str, *args: str) -> bytes:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    host = f"{tunnel.name}.localhost"
    done = subprocess.run(
        [
            "curl", "--silent", "--show-error", "--fail", "--http1.1", "--max-time", str(TIMEOUT),
            "--noproxy", "*", "--resolve", f"{host}:{tunnel.pair.port}:127.0.0.1", *args,
            f"http://{host}:{tunnel.pair.port}{path}",
        ],
        capture_output=True, timeout=TIMEOUT + 10, check=False, env=ENVIRON,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_gets(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = echo
    assert curl(any_tunnel, "/a?b=c") == b"/a?b=c"
    assert curl(any_tunnel, "/x", "--http1.0") == b"/x"
    head = curl(any_tunnel, "/x", "--head").lower()
    assert head.startswith(b"http/1.1 200 ok\r\n") and b"x-method: head" in head


def test_curl_uploads_a_large_file_after_100_continue(any_tunnel: Tunnel, tmp_path: Path) -> None:
    any_tunnel.target.handler = echo
    data = os.urandom(3_000_000)
    file = tmp_path / "file"
    file.write_bytes(data)
    for how in (["--data-binary", f"@{file}"], ["--upload-file", str(file)]):
        assert curl(any_tunnel, "/", "-H", "Expect: 100-continue", *how) == data
    sent = curl(any_tunnel, "/", "-T", str(file), "-H", "Transfer-Encoding: chunked")
    assert sent == data
    codings = [request.values("transfer-encoding") for request in any_tunnel.target.requests]
    assert codings == [[], [], ["chunked"]]
    assert [len(r.values("expect")) for r in any_tunnel.target.requests][:2] == [1, 1]


async def test_aiohttp_does_many_things_at_once(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = echo
    url = f"http://127.0.0.1:{any_tunnel.pair.port}"
    headers = {"Host": f"{any_tunnel.name}.localhost"}

    async def pieces(number: int) -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"%d," % number * 1000

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        if number % 3 == 0:
            async with session.get(f"{url}/{number}") as response:
                assert await response.text() == f"/{number}"
        elif number % 3 == 1:
            async with session.post(f"{url}/", data=pieces(number)) as response:
                assert await response.read() == b"%d," % number * 10_000
        else:
            async with session.put(f"{url}/", data=b"%d" % number) as response:
                assert response.headers["X-Method"] == "PUT"
                assert await response.read() == b"%d" % number

    connector = aiohttp.TCPConnector(limit=20)
    timeout = aiohttp.ClientTimeout(TIMEOUT)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout
    ) as session:
        await asyncio.gather(*(one(session, number) for number in range(150)))
    assert len(any_tunnel.target.requests) == 150
    assert len(any_tunnel.target.peers) <= 20


async def test_aiohttp_notices_a_truncated_answer(any_tunnel: Tunnel) -> None:
    async def cut(peer: Peer, request: Request) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\npart")
        peer.reset()

    any_tunnel.target.handler = cut
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(
                f"http://127.0.0.1:{any_tunnel.pair.port}/",
                headers={"Host": f"{any_tunnel.name}.localhost"},
            ) as response:
                await response.read()
