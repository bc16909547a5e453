"""The number of links follows the load, up and down again, and no visitor notices.

The server runs in the test, so that what takes minutes otherwise takes seconds.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy_engine.app import Server
from proxy_engine.links import demand as link_demand
from proxy_engine.settings import config
from tests.e2e.harness import Visitor, wait_until
from tests.e2e.processes import Process
from tests.e2e.target import Target, TargetProcess

BUSY_SHARE = 4  # percent of a core: others may want the machine too
DOWNLOAD = 8 << 20  # bytes
PATIENCE = 60.0  # seconds


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_demand, "SETTLE", 2.0)
    monkeypatch.setattr(link_demand, "FEWER_AFTER", 4.0)


@contextmanager
def downloads(port: int) -> Iterator[list[object]]:
    """Visitors that do nothing but download; yields what was not as it should be."""
    failed: list[object] = []
    stop = threading.Event()

    def visit() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            while not stop.is_set():
                client.request("GET", f"/bulk?n={DOWNLOAD}", headers={"Host": "bulk.localhost"})
                answer = client.getresponse()
                if (answer.status, len(answer.read())) != (200, DOWNLOAD):
                    failed.append(answer.status)
        except (OSError, http.client.HTTPException) as error:
            failed.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=visit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def until(what: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, what, PATIENCE)


async def test_links_come_with_the_load_and_go_with_it(quick: None, tmp_path: Path) -> None:
    flags = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "data_dir": str(tmp_path / "data"),
        "workers": "2",
        "link_busy_share": str(BUSY_SHARE),
    }
    with Target() as slow, TargetProcess() as bulk:
        async with Server(config.load(flags, {})) as server:
            assert server.first_run is not None
            port = server.address.port
            targets = {"slow": slow.port, "bulk": bulk.port}
            agent = Process(
                "connect", "--server", f"http://127.0.0.1:{port}", "--log-format", "json",
                *(f"--http={name}=127.0.0.1:{port}" for name, port in targets.items()),
                PROXY_ENGINE_TOKEN=server.first_run.device_token,
            )  # fmt: skip
            try:
                await asyncio.to_thread(agent.printed, "connected")
                await _up_and_down(server, slow)
                assert agent.popen.poll() is None
                assert sum('"connected"' in line for line in agent.out) == 1
            finally:
                await asyncio.to_thread(agent.end)


async def _up_and_down(server: Server, slow: Target) -> None:
    [device] = {link.device_id for link in server.links}
    port = server.address.port

    def links() -> set[int]:
        return {link.number for link in server.links.of_device(device) if not link.is_leaving}

    assert links() == {1}
    with downloads(port) as failed:
        await until(lambda: links() == {1, 2})
    # On either link some wait for an answer when the second one is given up.
    visitors = [await asyncio.to_thread(Visitor, port) for _ in range(20)]
    for visitor in visitors:
        visitor.send(b"GET /slow HTTP/1.1\r\nHost: slow.localhost\r\n\r\n")
    await until(lambda: slow.requests.count("GET /slow") == len(visitors))
    with downloads(port) as failed_meanwhile:
        await asyncio.sleep(0.2)
    await until(lambda: links() == {1})
    assert len(server.links.of_device(device)) == 2  # one of them drains
    slow.release()
    answers = [await asyncio.to_thread(visitor.response) for visitor in visitors]
    assert [answer.status for answer in answers] == [200] * len(visitors)
    await until(lambda: len(server.links.of_device(device)) == 1)
    assert failed == failed_meanwhile == []
    stats = server.engine.stats()
    assert (stats["links_opened"], stats["links_closed"]) == (2, 1)
    for visitor in visitors:
        visitor.socket.close()
