"""Starts and ends: quick, complete, cut short anywhere, and without a trace in the process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yarl
from aiohttp import web

from proxy_engine import Client, ClosedError, ConnectError, ListenError, Server, UsageError
from tests.library.visitor import TIMEOUT, Echo, Visitor

CYCLES = 100
START_MAX = 0.1  # seconds, of a start or a stop
EXECUTOR_THREADS = min(32, (os.cpu_count() or 1) + 4)


async def cycle(target: str) -> None:
    async with Server(workers=1) as server, Visitor(server.http_port) as visitor:
        token = await server.create_token("pi")
        async with Client(server.url, token=token, timeout=TIMEOUT) as client:
            await client.http("web", target)
            await client.http("app", web.Application())
            assert (await visitor.ask("web")).body == b"hello"
            assert (await visitor.ask("app")).status == 404


async def test_a_hundred_cycles_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "proxy_engine")  # pytest keeps every line
    async with Echo() as target:
        for _ in range(10):  # what is made once: caches, an executor's threads
            await cycle(target)
        seen = [left()]
        for _ in range(4):
            for _ in range(CYCLES // 4):
                await cycle(target)
            # Closed sockets go a turn of the loop later.
            await settled(lambda: left().fds <= seen[0].fds)
            seen.append(left())
    before, after = seen[0], seen[-1]
    assert after.threads <= before.threads
    # The executor's threads are asyncio's own, which makes a few and keeps them.
    assert after.native_threads - before.native_threads <= EXECUTOR_THREADS
    # A leak goes on in every quarter; bounded caches, of others, grow in one or another.
    steps = [(new.blocks - old.blocks, new.allocated - old.allocated)
             for old, new in pairwise(seen)]  # fmt: skip
    assert min(blocks for blocks, _ in steps) / (CYCLES // 4) < 60, seen
    assert min(size for _, size in steps) / (CYCLES // 4) < 4096, seen


class Left(NamedTuple):
    fds: int
    threads: int  # those that are not asyncio's
    native_threads: int
    blocks: int  # of Python
    allocated: int  # bytes by malloc()


def left() -> Left:
    """What there is, without what others keep by the ports of URLs."""
    urlsplit.cache_clear()  # type: ignore[attr-defined]
    yarl.cache_clear()
    gc.collect()
    own = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return Left(fds(), len(own), native_threads(), sys.getallocatedblocks(), allocated())


class MallInfo(ctypes.Structure):
    """struct mallinfo2: bytes in use are in uordblks and hblkhd."""

    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


def allocated() -> int:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = MallInfo
    found = libc.mallinfo2()
    return int(found.field7 + found.field4)


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


async def settled(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_server_and_a_client_start_and_stop_quickly() -> None:
    """At their best: the machine is shared, and may be busy for a while."""
    best: dict[str, float] = {}

    async def timed(name: str, work: Awaitable[Any]) -> Any:
        begin = time.perf_counter()
        result = await work
        best[name] = min(best.get(name, TIMEOUT), time.perf_counter() - begin)
        return result

    for _ in range(30):
        server = await timed("start server", Server(workers=1).__aenter__())
        client = Client(server.url, token=await server.create_token("pi"))
        await timed("start client", client.__aenter__())
        await timed("stop client", client.close())
        await timed("stop server", server.close())
        if max(best.values()) < START_MAX:
            break
    assert {name: least for name, least in best.items() if least > START_MAX} == {}


async def cut_short(
    make: Callable[[], Awaitable[Any]], turns: int = 0, seconds: float = 0.0
) -> bool:
    """Cancel after so many turns of the loop, and so long; whether it was still under way."""
    task = asyncio.ensure_future(make())
    for _ in range(turns):
        await asyncio.sleep(0)
        if task.done():
            break
    if seconds:
        await asyncio.wait({task}, timeout=seconds)
    is_early = not task.done()
    task.cancel()
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    if is_early:
        assert result is None or isinstance(result, asyncio.CancelledError), result
    elif isinstance(result, BaseException):
        raise result
    return is_early


async def test_a_server_may_be_cancelled_at_every_await() -> None:
    async def start() -> None:
        server = Server(workers=1)
        try:
            async with server:
                await asyncio.sleep(0)
        finally:
            assert server._is_closed

    await start()
    before = fds(), native_threads()
    begin = time.perf_counter()
    await start()
    whole = time.perf_counter() - begin
    for turns in range(60):
        await cut_short(start, turns)
    for share in range(80):
        await cut_short(start, seconds=whole * share / 64)
    gc.collect()
    await settled(lambda: fds() <= before[0] and native_threads() <= before[1] + 2)


async def test_a_client_may_be_cancelled_at_every_await(
    server: Server, token: str, tmp_path: Path
) -> None:
    async def start() -> None:
        async with (
            Client(server.url, token=token) as client,
            await client.http("app", web.Application()),
        ):
            await client.tcp("db", "127.0.0.1:1")

    await start()
    before = fds(), native_threads()
    begin = time.perf_counter()
    await start()
    whole = time.perf_counter() - begin
    for turns in range(80):
        await cut_short(start, turns)
    for share in range(80):
        await cut_short(start, seconds=whole * share / 64)
    gc.collect()
    await settled(lambda: not server.devices)
    await settled(lambda: fds() <= before[0] and native_threads() <= before[1] + 2)


async def test_a_tunnel_that_is_cancelled_is_not_there(server: Server, token: str) -> None:
    async with Client(server.url, token=token) as client:
        await client.http("other", "127.0.0.1:1")
        for turns in range(40):
            is_early = await cut_short(lambda: client.http("web", web.Application()), turns)
            if is_early:
                await settled(lambda: "web" not in client.tunnels)
                await settled(lambda: not online(server, "web"))
            else:
                await client.tunnels["web"].close()
            assert client._apps == set()
        assert online(server, "other")
        assert (await client.http("web", "127.0.0.1:1")).is_online


def online(server: Server, name: str) -> bool:
    return name in server.tunnels and server.tunnels[name].is_online


async def test_nothing_of_the_process_is_touched(tmp_path: Path) -> None:
    def state() -> Any:
        root = logging.getLogger()
        return (
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
            root.handlers[:], root.level, logging.getLogger("proxy_engine").level,
            logging.logThreads, logging.raiseExceptions,
            sys.excepthook, sys.getswitchinterval(), sys.getrecursionlimit(),
            os.getcwd(), dict(os.environ), os.umask(os.umask(0o22)),
            asyncio.get_running_loop().get_exception_handler(),
        )  # fmt: skip

    os.umask(0o22)
    before = state()
    async with Server(workers=1) as server:
        assert state() == before
        async with Client(server.url, token=await server.create_token("pi")) as client:
            await client.http("web", web.Application())
            assert state() == before
    assert state() == before


async def test_a_server_says_what_it_was_given_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='"listn", did you mean "listen"'):
        Server(listn="127.0.0.1:0")
    with pytest.raises(UsageError, match="keep_requests"):
        Server({"keep_requests": "many"})
    async with Server(workers=1) as server:
        for key in ("listen", "admin"):
            with pytest.raises(ListenError, match="can not listen"):
                async with Server({key: f"127.0.0.1:{server.http_port}"}, workers=1):
                    raise AssertionError
        with pytest.raises(UsageError) as caught:
            await server.create_token("admin")
        assert caught.value.reason == "name_taken"
    with pytest.raises(ClosedError):
        await server.create_token("x")
    with pytest.raises(ClosedError):
        await server.__aenter__()
    with pytest.raises(ClosedError, match="not started"):
        _ = Server().url


async def test_settings_come_in_several_forms(tmp_path: Path) -> None:
    first = Server({"domain": "a.example"}, data_dir=tmp_path, grace=1)
    second = Server(first.settings, domain="b.example")
    assert first.settings.data_dir == second.settings.data_dir == tmp_path
    assert (first.settings.domain, second.settings.domain) == ("a.example", "b.example")
    async with second as server:
        assert server.url.startswith("http://b.example:")
        assert server.local_url == f"http://127.0.0.1:{server.http_port}"
        async with Client(server.local_url, token=await server.create_token("pi")) as client:
            tunnel = await client.http("web", "127.0.0.1:1")
            assert tunnel.url == f"http://web.b.example:{server.http_port}/"
        assert server.settings.listen[0].address.host == "127.0.0.1"
        assert server.counters()["accepted"] == 1
    assert (tmp_path / "proxy-engine.db").exists() or list(tmp_path.iterdir())


async def test_events_of_a_server(server: Server, token: str) -> None:
    seen: list[Any] = []

    async def watch() -> None:
        async for event in server.events("devices", "tunnels"):
            seen.append(event)  # noqa: PERF401

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    async with Client(server.url, token=token) as client:
        await client.http("web", "127.0.0.1:1")
    await settled(lambda: "down" in [event.change for event in seen])
    watching.cancel()
    changes = {(type(event).__name__, event.change) for event in seen}
    assert changes >= {("DeviceEvent", "up"), ("TunnelEvent", "online"), ("DeviceEvent", "down")}
    with pytest.raises(UsageError, match="no topic"):
        await anext(server.events("weather"))  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["", "loop.close()", "os._exit(0)", "sys.exit(0)"])
def test_a_program_that_forgets_to_close_ends_all_the_same(end: str) -> None:
    script = f"""
import asyncio, os, sys
from proxy_engine import Client, Server
loop = asyncio.new_event_loop()
async def main():
    server = await Server(workers=1).__aenter__()
    client = await Client(server.url, token=await server.create_token("pi")).__aenter__()
    await client.http("web", "127.0.0.1:1")
    return server, client
kept = loop.run_until_complete(main())
{end}
"""
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


async def test_a_server_that_is_gone_for_good(tmp_path: Path) -> None:
    async with Server(workers=1) as server:
        url, token = server.url, await server.create_token("pi")
    with pytest.raises(ConnectError) as caught:
        await Client(url, token=token, timeout=0.3).__aenter__()
    assert caught.value.retryable


async def test_descriptors_go_with_the_end_and_not_with_the_last_reference() -> None:
    async with (
        Server(workers=2) as server,
        Client(server.url, token=await server.create_token("pi")) as client,
    ):
        pass
    gc.collect()
    before = fds()
    gc.disable()
    try:
        kept = []
        for _ in range(5):
            async with (
                Server(workers=2) as server,
                Client(server.url, token=await server.create_token("pi")) as client,
            ):
                kept.append((server, client))
        assert fds() <= before
    finally:
        gc.enable()
