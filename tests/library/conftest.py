"""A server, a device's token, and visitors, all in this process."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator

import pytest

from proxy_engine import Server
from tests.library.visitor import Visitor

if importlib.util.find_spec("proxy_engine_core.core") is None:
    collect_ignore_glob = ["test_*.py"]  # the engine is not built


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(workers=1) as server:
        yield server


@pytest.fixture
async def token(server: Server) -> str:
    return await server.create_token("pi")


@pytest.fixture
async def visitor(server: Server) -> AsyncIterator[Visitor]:
    async with Visitor(server.http_port) as visitor:
        yield visitor
