"""Every backend there is, for the contract: what storage.Store promises, all of them keep.

A test that takes `store` runs once for each; one that takes `backend` can open several stores
on the same data.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import pytest

from proxy_engine.storage import Store
from proxy_engine.storage.mongo import MongoStore
from proxy_engine.storage.mongo.client import Client, Driver
from proxy_engine.storage.sqlite import SqliteStore
from tests.storage import mongo_server


class Backend(Protocol):
    async def open(self) -> Store:
        """One more store on the same data. The test closes it."""


class SqliteBackend:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> Store:
        return await SqliteStore.open(self._path)


class MongoBackend:
    def __init__(self, uri: str, driver: Driver) -> None:
        self.uri = uri
        self._driver: Driver = driver

    async def open(self) -> Store:
        return await MongoStore.open(self.uri, self._driver)

    async def drop(self) -> None:
        client = Client(self.uri, self._driver)
        await client.database.client.drop_database(client.database.name)
        await client.close()


@pytest.fixture(scope="session")
def mongo_host() -> Iterator[str]:
    yield from mongo_server.mongo_uri()


@pytest.fixture
def mongo_uri(mongo_host: str) -> str:
    """With a database of the test's own in it."""
    parts = urlsplit(mongo_host)
    return urlunsplit(parts._replace(path=f"/proxy_engine_{uuid.uuid4().hex}"))


@pytest.fixture(params=["sqlite", "motor", "pymongo"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "sqlite":
        yield SqliteBackend(tmp_path / "db")
        return
    mongo = MongoBackend(request.getfixturevalue("mongo_uri"), request.param)
    yield mongo
    await mongo.drop()


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    opened = await backend.open()
    yield opened
    await opened.close()
