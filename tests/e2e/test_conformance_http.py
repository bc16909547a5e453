"""HTTP/1.1 by the book, through a tunnel: our vectors over the wire, and the public suite's.

A target that echoes stands behind a default tunnel, so any Host gets there, and records what
does. The public suites are in no package index: Http11Probe's vectors are run where
PROXY_ENGINE_HTTP11PROBE names their file, h1spec where PROXY_ENGINE_H1SPEC names its
http_test.ts and there is deno to run it (docs/conformance.md has the figures).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import OK, Pair, Peer, RecordingTarget, Request, ok, reply

VECTORS = Path(__file__).parents[1] / "vectors" / "http1"
PROBE = os.environ.get("PROXY_ENGINE_HTTP11PROBE", "")
H1SPEC = os.environ.get("PROXY_ENGINE_H1SPEC", "")
DENO = shutil.which("deno")
STATUS = {
    "line_too_long": 414,
    "too_large": 431,
    "method_not_allowed": 405,
    "bad_expect": 417,
    "version_unsupported": 505,
}  # fmt: skip; all others: 400


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def named(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


@pytest.fixture(scope="module")
def target() -> Iterator[RecordingTarget]:
    """One for all tests here, never restarted: its connections are reused between them."""
    target = RecordingTarget()
    yield target
    target.close()


@pytest.fixture(scope="module")
def pair(target: RecordingTarget, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("http") / "data", server_args=["--default-tunnel", "web"])
    try:
        pair.connect({"web": target.port})
        yield pair
    finally:
        pair.close()


async def echo(peer: Peer, request: Request) -> None:
    await peer.send(ok(await peer.body(request)))


# --- our own --------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", named(load("requests.json")))
def test_a_vector_is_answered_over_the_wire(
    pair: Pair, target: RecordingTarget, vector: dict[str, str]
) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        try:
            await asyncio.wait_for(peer.body(request), 0.3)
            await peer.send(OK)
        except TimeoutError:  # some announce a body that never comes
            await peer.send(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            peer.close()

    target.handler = handler
    before = len(target.requests)
    with pair.visitor() as visitor:
        visitor.send(vector["raw"].encode("latin-1"))
        response = visitor.response(vector["raw"].partition(" ")[0])
        if vector["expect"] == "accepted":
            assert response.status == 200
            assert len(target.requests) == before + 1
            return
        assert response.status == STATUS.get(vector["expect"], 400)
        assert response.json()["error"] == vector["expect"]
        assert response.values("connection") == ["close"]
        assert visitor.rest() == b""
    assert len(target.requests) == before


def test_a_request_may_be_cut_anywhere(pair: Pair, target: RecordingTarget) -> None:
    target.handler = echo
    waits = load("conversations.json")["waits"]
    raw = waits["raw"].encode("latin-1")
    assert len(waits["cuts"]) == 15
    visitors = [pair.visitor() for _ in waits["cuts"]]
    for visitor, (_, cut) in zip(visitors, waits["cuts"], strict=True):
        visitor.send(raw[:cut])
    spoke, _, _ = select.select([visitor.socket for visitor in visitors], [], [], 0.7)
    assert not spoke, "it is not complete"
    for visitor, (where, cut) in zip(visitors, waits["cuts"], strict=True):
        with visitor:
            visitor.send(raw[cut:])
            response = visitor.response()
            assert (response.status, response.body) == (200, b"four"), where


@pytest.mark.parametrize("case", named(load("conversations.json")["answers"]))
def test_a_conversation(pair: Pair, target: RecordingTarget, case: dict[str, Any]) -> None:
    target.handler = echo
    low, high = case["status"]
    with pair.visitor() as visitor:
        visitor.send(case["raw"].encode("latin-1"))
        response = visitor.head() if low == 100 else visitor.response()
        assert low <= response.status <= high
        if "body" in case:
            assert response.body == case["body"].encode()


def test_there_are_33_conversations() -> None:
    conversations = load("conversations.json")
    assert len(conversations["waits"]["cuts"]) + len(conversations["answers"]) == 33


# --- h1spec -------------------------------------------------------------------------------


@pytest.mark.skipif(not (H1SPEC and DENO), reason="no PROXY_ENGINE_H1SPEC, or no deno")
def test_h1spec(pair: Pair, target: RecordingTarget) -> None:
    assert DENO is not None
    target.handler = echo
    done = subprocess.run(
        [DENO, "run", "--allow-net", H1SPEC, "127.0.0.1", str(pair.port)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "33 out of 33 tests passed." in done.stdout, done.stdout + done.stderr


# --- Http11Probe ------------------------------------------------------------------------------


def answer(port: int, raw: bytes) -> tuple[int | None, bool]:
    """The status of the first response, None without one; and whether it then closed."""
    received = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(3)
        try:
            connection.sendall(raw)
            while data := connection.recv(65536):
                received += data
                connection.settimeout(0.4 if b"\r\n\r\n" in received else 3)
            closed = True
        except TimeoutError:
            closed = False
        except ConnectionError:
            closed = True
    match = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    return (int(match[1]) if match else None), closed


def verdict(expected: str, status: int | None, closed: bool) -> str:
    """By the words of a vector: what it prefers passes, what it only allows is a warning."""
    wanted = expected.lower()
    codes = {int(code) for code in re.findall(r"\b([2-5]\d\d)\b", wanted)}
    is_success = status is not None and 200 <= status < 300
    if wanted.startswith("!101"):
        return "fail" if status == 101 else "pass"
    if wanted.startswith("non-1xx"):
        return "pass" if status is not None and status >= 200 else "fail"
    if status is None:
        allowed = "timeout" in wanted or ("close" in wanted and closed)
        return "pass" if allowed else "fail"
    if wanted.startswith("2xx + close"):
        return "pass" if is_success and closed else "fail"
    if status in codes:
        return "pass"
    if not (is_success and ("2xx" in wanted or 200 in codes)):
        return "fail"
    return "warn" if codes - {200} else "pass"  # a refusal would have been preferred


@pytest.mark.skipif(not PROBE, reason="PROXY_ENGINE_HTTP11PROBE names no vectors.json")
def test_http11probe(pair: Pair, target: RecordingTarget) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        if request.method == "DELETE":
            await peer.send(
                b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n"
            )
        elif request.method == "OPTIONS":
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await reply(OK)(peer, request)

    target.handler = handler
    vectors = [vector for vector in json.loads(Path(PROBE).read_text()) if vector["scored"]]
    host = f"127.0.0.1:{pair.port}"

    def run(vector: dict[str, Any]) -> str:
        raw = vector["raw"].replace("localhost:8080", host).encode("latin-1")
        return verdict(vector["expected"], *answer(pair.port, raw))

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip((v["id"] for v in vectors), pool.map(run, vectors), strict=True))
    score = Counter(found.values())
    print(score, [name for name, result in found.items() if result != "pass"])
    assert [name for name, result in found.items() if result == "fail"] == []
    assert score["pass"] >= 125
