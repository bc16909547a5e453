"""Every backend there is, for the contract: what storage.Store promises, all of them keep.

A test that takes `store` runs once for each; one that takes `backend` can open several stores
on the same data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from proxy_engine.storage import Store
from proxy_engine.storage.sqlite import SqliteStore


class Backend(Protocol):
    async def open(self) -> Store:
        """One more store on the same data. The test closes it."""


class SqliteBackend:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> Store:
        return await SqliteStore.open(self._path)


@pytest.fixture(params=["sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return SqliteBackend(tmp_path / "db")


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    opened = await backend.open()
    yield opened
    await opened.close()
