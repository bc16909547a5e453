"""Who may watch /api/v1/events, and how it ends."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient

from proxy_engine import tokens
from proxy_engine.live_events import SUBSCRIBERS_MAX
from proxy_engine.storage.sqlite import SqliteStore
from tests.unit.proxy import test_api

service, client, admin = test_api.service, test_api.client, test_api.admin
PATH = "/api/v1/events"


async def connect(client: TestClient[Any, Any], headers: dict[str, str], query: str = "") -> Any:
    return await client.ws_connect(PATH + query, headers=headers)


async def refusal(client: TestClient[Any, Any], headers: dict[str, str], query: str = "") -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await connect(client, headers, query)
    return refused.value.status


async def test_a_subscriber_gets_what_it_asked_for(
    client: TestClient[Any, Any], admin: dict[str, str], service: Any
) -> None:
    socket = await connect(client, admin, "?topic=devices&topic=metrics&interval=0.1")
    values = (await socket.receive_json())["values"]
    assert values["event_subscribers"] == 1
    service.events.device("pi", "up", 1, "::1")
    while (found := await socket.receive_json())["type"] == "metrics":
        pass
    assert (found["device"], found["change"], found["links"]) == ("pi", "up", 1)
    await socket.close()


async def test_a_page_may_send_its_token_as_a_subprotocol(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    token = admin["Authorization"].removeprefix("Bearer ")
    offered = ("proxy-engine.events", f"bearer.{token}")
    own = f"http://{client.host}:{client.port}"
    socket = await client.ws_connect(PATH, protocols=offered, headers={"Origin": own})
    assert socket.protocol == "proxy-engine.events"
    await socket.close()
    # Nowhere else.
    response = await client.get("/api/v1/stats", headers={"Sec-WebSocket-Protocol": offered[1]})
    assert response.status == 401


async def test_others_may_not(
    client: TestClient[Any, Any], admin: dict[str, str], service: Any
) -> None:
    assert await refusal(client, {}) == 401
    for origin in ("http://evil.example", "null", f"http://{client.host}", "http://["):
        assert await refusal(client, {**admin, "Origin": origin}) == 403, origin
    assert await refusal(client, admin, "?topic=all") == 400
    assert await refusal(client, admin, "?interval=0") == 400
    response = await client.get(PATH, headers=admin)
    assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
    with contextlib.ExitStack() as stack:
        for _ in range(SUBSCRIBERS_MAX):
            stack.enter_context(service.events.subscribe(frozenset()))
        assert await refusal(client, admin) == 429


async def test_events_are_not_compressed_for_anybody(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    socket = await client.ws_connect(PATH, headers=admin, compress=15)
    assert socket.compress == 0
    await socket.close()


async def test_a_secret_that_was_replaced_ends_it(
    client: TestClient[Any, Any], admin: dict[str, str], store: SqliteStore, service: Any
) -> None:
    now = time.time()
    await tokens.rotate(store, "root", now=now, overlap=1.5)
    service.cache.clear()
    socket = await connect(client, admin, "?topic=devices")
    message = await socket.receive(timeout=10)
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert time.time() > now + 1.4


async def test_a_token_that_is_taken_back_ends_it(
    client: TestClient[Any, Any], admin: dict[str, str], store: SqliteStore, service: Any
) -> None:
    socket = await connect(client, admin, "?topic=devices")
    await store.token_revoke("root", time.time())
    service.cache.clear()  # as the server does when tokens change
    message = await socket.receive(timeout=5)
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert len(service.events) == 0
