"""The examples of docs/hooks.md do what they say, as they stand there."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy_engine.hooks import (
    DeviceConnect,
    DevicePresence,
    Failure,
    Hook,
    Refuse,
    Request,
    ServerEvent,
    TunnelData,
    TunnelOpen,
    loading,
)
from proxy_engine.hooks.manager import EVENTS, Manager
from proxy_engine.settings import config

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "hooks.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", GUIDE, re.DOTALL))
TABLES = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
SERVER = ServerEvent(at=0, url="", admin="", domain="", version="")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, source in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in EXAMPLES:
        sys.modules.pop(name, None)


@pytest.fixture
async def running() -> AsyncIterator[Callable[..., Any]]:
    """A manager of one hook, made as a server makes it, and started."""
    managers: list[Manager] = []

    async def make(name: str, **options: object) -> tuple[Manager, Any]:
        [hook] = loading.load([name], {name: options}).values()
        managers.append(Manager([hook]))
        await managers[-1].start(SERVER)
        return managers[-1], hook

    yield make
    for manager in managers:
        await manager.close(SERVER)


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def calls(manager: Manager) -> int:
    return manager.stats()["hook_calls"]


def connect(device: str) -> DeviceConnect:
    return DeviceConnect(
        at=0, device=device, device_id=1, token="t", token_id=1, peer="1.2.3.4:5",
        address="1.2.3.4", certificate=(), number=1, links=0,
    )  # fmt: skip


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "at": 86400.5, "request_id": "r", "tunnel": "web", "device": "pi", "visitor": "::1",
        "method": "GET", "host": "web", "path": "/a,b", "status": 200, "reason": "", "bytes_in": 1,
        "bytes_out": 2, "seconds": 0.1, "first_byte_seconds": 0.1, "target_seconds": 0.1,
        "flags": 0,
    }  # fmt: skip
    return Request(**{**fields, **changes})


def moved(tunnel: str, count: int) -> TunnelData:
    return TunnelData(
        at=0, tunnel=tunnel, tunnel_id=1, kind="http", bytes_in=count, bytes_out=0,
        total_in=count, total_out=0, seconds=5,
    )  # fmt: skip


def test_there_are_five() -> None:
    assert sorted(EXAMPLES) == ["alarm", "inventory", "presence", "quota", "trail"]


def test_every_event_option_and_hook_is_in_the_guide() -> None:
    documented = set(re.findall(r"`(\w+)`", GUIDE))
    assert documented >= {*EVENTS, *Hook.OPTIONS, *loading.BUILT_IN}


def test_the_settings_of_the_guide_are_settings(tmp_path: Path) -> None:
    for number, text in enumerate(TABLES):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        settings = config.load({}, {}, file=str(file))
        assert Manager(list(loading.load(settings.hooks, settings.hook_options).values()))
    [package] = re.findall(r"```\n(\[project.*?)```", GUIDE, re.DOTALL)
    assert list(tomllib.loads(package)["project"]["entry-points"]) == [loading.GROUP]


async def test_presence_tells_a_chat_of_devices_that_stay_away(running) -> None:
    said: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        said.append((await request.json())["text"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", receive)
    async with TestServer(app) as chat:
        manager, _ = await running("presence:Presence", url=str(chat.make_url("/")), grace=0.05)

        def tell(kind: str, device: str) -> None:
            event = DevicePresence(at=0, device=device, device_id=1, address="::1", reason="closed")
            manager.tell(f"on_device_{kind}", event)

        tell("offline", "quick")
        tell("online", "quick")
        tell("offline", "pi")
        await until(lambda: said)
        tell("online", "pi")
        await until(lambda: len(said) == 2)
        assert said == ["pi is offline (closed)", "pi is back, from ::1"]


async def test_inventory_knows_who_may_connect(running, tmp_path: Path) -> None:
    path = tmp_path / "inventory.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE devices (name, state)")
        rows = [("pi", "active"), ("old", "scrapped"), ("ill", "repair")]
        connection.executemany("INSERT INTO devices VALUES (?, ?)", rows)
    connection.close()
    manager, _ = await running("inventory:Inventory", path=str(path))
    await manager.ask("on_device_connect", connect("pi"))
    for device, reason, retry_after in (
        ("x", "x is not in the inventory", None),
        ("old", "this device is scrapped", None),
        ("ill", "this device is being repaired; try again later", 600),
    ):
        with pytest.raises(Refuse) as caught:
            await manager.ask("on_device_connect", connect(device))
        assert (str(caught.value), caught.value.retry_after) == (reason, retry_after)


async def test_quota_refuses_a_tunnel_that_has_used_its_own(running) -> None:
    manager, hook = await running("quota:Quota", gigabytes=1)
    opened = TunnelOpen(
        at=0, tunnel="web", kind="http", port=None, device="pi", device_id=1, token="t",
        token_id=1, address="::1", agent="", platform="",
    )  # fmt: skip
    manager.tell("on_data", [moved("web", 600_000_000), moved("other", 5)])
    await manager.ask("on_tunnel_open", opened)
    manager.tell("on_data", [moved("web", 600_000_000)])
    with pytest.raises(Refuse, match=r"1\.2 of 1\.0 GB used in 2"):
        await manager.ask("on_tunnel_open", opened)
    assert manager.stats()["hook_Quota_over"] == 1
    hook.month = "1999-12"  # a new month
    await manager.ask("on_tunnel_open", opened)


async def test_trail_writes_a_file_a_day(running, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    manager, _ = await running("trail:Trail", folder=str(folder), tunnels=["web"])
    before = calls(manager)
    manager.tell("on_request", [request(), request(tunnel="x"), request(at=2 * 86400.0)], 3)
    await until(lambda: calls(manager) == before + 1)
    assert (folder / "1.csv").read_text() == '86400.5,web,::1,GET,"/a,b",200\n'
    assert (folder / "2.csv").read_text() == '172800.0,web,::1,GET,"/a,b",200\n'


async def test_alarm_runs_a_program_for_tunnels_that_fail(running, tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = tmp_path / "tell"
    command.write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    command.chmod(0o755)
    manager, hook = await running("alarm:Alarm", command=str(command), share=0.1, least=4)
    assert hook.sample == 10
    manager.tell("on_request", [request(status=502), request(), request()])
    manager.tell("on_data", [moved("web", 1)])  # three are not enough
    await until(lambda: hook.counts == {"web": (3, 1)} and calls(manager) == 2)
    manager.tell("on_request", [request(status=500)])
    manager.tell("on_data", [moved("web", 1)])
    await until(lambda: said.exists() and said.read_text() == "web 50\n")
    manager.report(Failure(at=0, source="store", where="write", error=OSError()))
    await until(lambda: said.read_text() == "web 50\nstore 100\n")
