from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy_engine.storage.sqlite import SqliteStore
from tests.unit.proxy.fake_engine import FakeEngine, install_core_if_missing

install_core_if_missing()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "db")
    yield opened
    await opened.close()
