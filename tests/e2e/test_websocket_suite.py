"""The public WebSocket suite (Autobahn's cases, by kosoku) against our codec itself.

Three subjects: the native codec on the engine's worker loop as a server and as a client
(`_testing/echo_server.py`), and the Python face as a server. Nothing less than a strict
pass is taken; docs/conformance.md tells of the whole run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy_engine_core._testing.echo_server import EchoClient, EchoServer
from proxy_engine_core.http1.python import parse_request_head
from proxy_engine_core.websocket import Binary, Connection, Text, accept_request

kosoku = pytest.importorskip("kosoku", reason="kosoku is not installed: pip install kosoku")

pytestmark = pytest.mark.timeout(600)

PROTOCOL = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
PROTOCOL_COUNT = 301
# Every kind of 12 (what data) and 13 (what was agreed on), at a thousand messages each: small,
# middling and fragmented. PROXY_ENGINE_KOSOKU=all adds the large ones: minutes.
SIZES = ["1", "4", "11"]
DEFLATE = [f"12.{kind}.{size}" for kind in range(1, 6) for size in SIZES]
DEFLATE += [f"13.{kind}.{size}" for kind in range(1, 8) for size in SIZES]
DEFLATE_COUNT = len(DEFLATE)
if os.environ.get("PROXY_ENGINE_KOSOKU") == "all":
    DEFLATE = ["12.*", "13.*"]
    DEFLATE_COUNT = 216


def verdict(of_suite: Any) -> str:
    return str(of_suite).rpartition(".")[2]  # Behavior.OK


def check(results: list[Any], count: int, informational: set[str]) -> None:
    assert len(results) == count
    verdicts = {
        result.case_id: (verdict(result.behavior), verdict(result.behavior_close))
        for result in results
    }
    odd = {case: found for case, found in verdicts.items() if found != ("OK", "OK")}
    assert odd == dict.fromkeys(informational, ("INFORMATIONAL", "INFORMATIONAL"))


# Cases that have no right answer: whatever is done is only written down.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


async def drive(port: int, cases: list[str]) -> list[Any]:
    try:
        results: list[Any] = await kosoku.run_fuzzingclient(
            f"ws://127.0.0.1:{port}", cases, concurrency=4
        )
    except kosoku.FailureError as error:
        pytest.fail(str(error))
    return results


@pytest.mark.sanitized
async def test_the_native_codec_as_a_server() -> None:
    with EchoServer() as server:
        check(await drive(server.port, PROTOCOL), PROTOCOL_COUNT, INFORMATIONAL)


@pytest.mark.sanitized
async def test_the_native_codec_as_a_server_with_compression() -> None:
    with EchoServer() as server:
        check(await drive(server.port, DEFLATE), DEFLATE_COUNT, set())


def run_cases(port: int, count: int) -> None:
    client = EchoClient()
    for case in range(1, count + 1):
        client.connect(port, f"/runCase?case={case}&agent=proxy-engine")
        while client.closed < case:
            time.sleep(0.001)
    client.connect(port, "/updateReports?agent=proxy-engine")


async def be_driven(cases: list[str], count: int) -> list[Any]:
    async with kosoku.run_fuzzingserver(cases, port=0) as server:
        await asyncio.to_thread(run_cases, server.port, count)
        try:
            results: list[Any] = await server.get_result()
        except kosoku.FailureError as error:
            pytest.fail(str(error))
    return results


async def test_the_native_codec_as_a_client() -> None:
    check(await be_driven(PROTOCOL, PROTOCOL_COUNT), PROTOCOL_COUNT, INFORMATIONAL)


async def test_the_native_codec_as_a_client_with_compression() -> None:
    check(await be_driven(DEFLATE, DEFLATE_COUNT), DEFLATE_COUNT, set())


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    agreed = accept_request(parse_request_head(head)[2], deflate=True)
    writer.write(agreed.response)
    connection = Connection("server", deflate=agreed.deflate)
    while connection.state != "closed" and (data := await reader.read(256 * 1024)):
        for event in connection.receive(data):
            match event:
                case Text(text):
                    writer.write(connection.send_text(text))
                case Binary(payload):
                    writer.write(connection.send_binary(payload))
        writer.write(connection.outgoing())
        await writer.drain()
    writer.close()


@pytest.fixture
async def python_server() -> AsyncIterator[int]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_python_face_as_a_server(python_server: int) -> None:
    check(await drive(python_server, PROTOCOL), PROTOCOL_COUNT, INFORMATIONAL)
