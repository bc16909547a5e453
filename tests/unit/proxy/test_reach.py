from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from proxy_engine.agent.reach import Reacher, parse_proxy, proxy_for
from proxy_engine.agent.servers import ServerUrl, parse_server
from proxy_engine.errors import UsageError

SERVER = parse_server("http://server.test:8080")
NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def listening(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def resolver(*answers: list[str] | OSError) -> Callable[[str, int], Awaitable[list[str]]]:
    """Gives these answers in order, the last one for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    return resolve


async def reached(reacher: Reacher, server: ServerUrl) -> str:
    """The address that a connection was made to."""
    found = await reacher(server)
    with socket.socket(fileno=found.fd) as sock:
        assert sock.getpeername()[:2] == (found.host, found.port)
    return found.host


async def test_the_first_address_that_answers_is_taken() -> None:
    async with listening(silent) as port:
        server = ServerUrl("server.test", port, "server.test")
        addresses = ["127.0.0.2", "::1", "127.0.0.1"]  # nobody listens on the first two
        assert await reached(Reacher(resolver(addresses)), server) == "127.0.0.1"


async def test_a_server_with_ipv6_only_is_reached() -> None:
    try:
        async with listening(silent, "::1") as port:
            server = ServerUrl("server.test", port, "server.test")
            assert await reached(Reacher(resolver(["127.0.0.1", "::1"])), server) == "::1"
    except OSError:
        pytest.skip("no IPv6 here")


async def test_an_address_that_swallows_everything_holds_nobody_up() -> None:
    blackhole = socket.create_server(("127.0.0.3", 0), backlog=0)
    port = blackhole.getsockname()[1]
    fillers = []
    for _ in range(4):  # a full backlog does not answer
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.3", port))
        fillers.append(filler)
    answering = await asyncio.start_server(silent, "127.0.0.1", port)
    async with answering:
        started = time.monotonic()
        server = ServerUrl("server.test", port, "server.test")
        reacher = Reacher(resolver(["127.0.0.3", "127.0.0.1"]))
        assert await reached(reacher, server) == "127.0.0.1"
        assert time.monotonic() - started < 5
    for sock in (*fillers, blackhole):
        sock.close()


async def test_addresses_found_before_are_good_while_the_resolver_is_away() -> None:
    async with listening(silent) as port:
        server = ServerUrl("server.test", port, "server.test")
        away = OSError(-2, "Name or service not known")
        reacher = Reacher(resolver(away, ["127.0.0.1"], away))
        with pytest.raises(OSError, match=r"can not find server\.test: Name or service not known"):
            await reacher(server)
        for _ in range(3):
            assert await reached(reacher, server) == "127.0.0.1"


async def test_a_name_that_moves_is_followed() -> None:
    async with listening(silent) as port:
        server = ServerUrl("server.test", port, "server.test")
        reacher = Reacher(resolver(["127.0.0.9"], ["127.0.0.1"]))
        with pytest.raises(OSError, match=r"refused|Connect"):
            await reacher(server)
        assert await reached(reacher, server) == "127.0.0.1"


# --- proxies --------------------------------------------------------------------------------


@asynccontextmanager
async def a_proxy(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await reader.read()
        writer.close()

    async with listening(serve) as port:
        yield port, heads


async def test_a_proxy_is_asked_to_connect_by_name() -> None:
    async with a_proxy(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n") as (port, heads):
        url = f"http://us%40er:p%3Aw@127.0.0.1:{port}"
        reacher = Reacher(resolver(["127.0.0.1"]), proxy=url)
        assert await reached(reacher, SERVER) == "127.0.0.1"
        assert heads == [
            b"CONNECT server.test:8080 HTTP/1.1\r\nHost: server.test:8080\r\n"
            b"Proxy-Authorization: Basic dXNAZXI6cDp3\r\n\r\n"
        ]
        await reached(reacher, parse_server("http://[2001:db8::1]:81"))
        assert heads[-1].startswith(b"CONNECT [2001:db8::1]:81 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered 407 Proxy Auth"),
        (b"HTTP/1.0 503\r\n\r\n", "answered 503"),
        (b"SSH-2.0-x\r\n\r\n", "no usable answer"),
        (b"x" * 20_000, "no usable answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "more than its answer"),
    ],
)
async def test_a_proxy_that_does_not_connect_says_why(answer: bytes, error: str) -> None:
    async with a_proxy(answer) as (port, _):
        reacher = Reacher(resolver(["127.0.0.1"]), proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(OSError, match=error):
            await reacher(SERVER)


@pytest.mark.parametrize(
    ("environ", "server", "proxy"),
    [
        ({}, "http://a.test", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.test", "p"),
        ({"http_proxy": "p:1"}, "http://a.test", "p"),
        ({"HTTPS_PROXY": "http://q:1"}, "ws://a.test", "q"),
        ({"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "http://a.test", "p"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "b.test,.test"}, "http://a.test", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.test:81"}, "http://a.test:81", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.test:81"}, "http://a.test:82", "p"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://a.test", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://localhost", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://127.0.0.2", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://[::1]", None),
    ],
)
def test_the_environment_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], server: str, proxy: str | None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(parse_server(server), "")
    assert (found and found.host) == proxy


def test_the_setting_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    assert proxy_for(SERVER, "none") is None
    found = proxy_for(SERVER, "http://q")
    assert found is not None
    assert (found.host, found.port, found.authorization) == ("q", 80, "")


@pytest.mark.parametrize("url", ["socks5://p", "https://p", "http://", "http://p:x", "http://p/x"])
def test_what_is_no_proxy_is_said_so(url: str) -> None:
    with pytest.raises(UsageError, match="proxy"):
        parse_proxy(url)
