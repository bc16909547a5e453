"""Live events of a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.e2e.harness import RecordingTarget
from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = await asyncio.to_thread(Site, tmp_path / "data")
    yield site
    await asyncio.to_thread(site.close)


async def until(socket: Any, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT):
        while (found := json.loads(await socket.recv()))["type"] != wanted:
            pass
    return found


async def test_devices_and_requests_are_seen_as_they_happen(
    site: Site, shared_target: RecordingTarget
) -> None:
    url = f"ws://127.0.0.1:{site.admin_port}/api/v1/events?interval=0.2"
    bearer = {"Authorization": f"Bearer {site.admin_token}"}
    async with websockets.connect(url, additional_headers=bearer) as socket:
        assert (await until(socket, "metrics"))["values"]["event_subscribers"] == 1
        agent = await asyncio.to_thread(site.connect, {"web": shared_target.port})
        up = await until(socket, "device")
        assert (up["device"], up["change"], up["links"]) == ("default", "up", 1)
        created = await until(socket, "tunnel")
        assert (created["tunnel"], created["change"]) == ("web", "created")
        assert (await until(socket, "tunnel"))["change"] == "online"
        await asyncio.to_thread(site.get, "web", "/x?token=pe_secret")
        request = await until(socket, "request")
        assert (request["path"], request["status"]) == ("/x?token=[redacted]", 200)
        assert (request["tunnel"], request["device"]) == ("web", "default")
        agent.end()
        assert (await until(socket, "tunnel"))["change"] == "offline"
        down = await until(socket, "device")
        assert (down["change"], down["links"]) == ("down", 0)
        await asyncio.to_thread(site.server.signal)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await until(socket, "never")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert await asyncio.to_thread(site.server.exit_code) == 0
