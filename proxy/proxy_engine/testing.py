"""Fixtures for the tests of programs that use proxy-engine: a plugin that pytest finds by itself.

    async def test_my_app(proxy_client, proxy_visitor):
        tunnel = await proxy_client.http("web", my_app)
        async with proxy_visitor.get(tunnel.url) as response:
            assert response.status == 200

For pytest-asyncio, in its modes "auto" and "strict", and for anyio's plugin. docs/library.md.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

    from proxy_engine import Client, Server

    fixture = pytest.fixture
else:
    try:
        from pytest_asyncio import fixture
    except ImportError:
        fixture = pytest.fixture


@pytest.fixture
def proxy_settings() -> dict[str, Any]:
    """Settings of proxy_server, to be overridden."""
    return {"workers": 1}


@fixture
async def proxy_server(proxy_settings: dict[str, Any]) -> AsyncIterator[Server]:
    """A server on free ports of the loopback, with a store of its own."""
    from proxy_engine import Server

    async with Server(proxy_settings) as server:
        yield server


@fixture
async def proxy_client(proxy_server: Server) -> AsyncIterator[Client]:
    """A device that is connected to it."""
    from proxy_engine import Client

    token = await proxy_server.create_token("pytest")
    async with Client(proxy_server.local_url, token=token) as client:
        yield client


@fixture
async def proxy_visitor(proxy_server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that finds every host name on it, so that tunnels' URLs work as they are."""
    import aiohttp
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found: ResolveResult = {
                "hostname": host,
                "host": proxy_server.address.host,
                "port": port,
                "family": family,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            return [found]

        async def close(self) -> None:
            pass

    connector = aiohttp.TCPConnector(resolver=Resolver(), family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
