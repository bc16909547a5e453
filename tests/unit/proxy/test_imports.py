"""Who may import what inside the control plane."""

from __future__ import annotations

from pathlib import Path

import pytest

import proxy_engine
from tests.unit.test_layers import imported_modules, is_within

PACKAGE = Path(proxy_engine.__file__).parent
WITH_AIOHTTP = ("api", "demo")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_only_the_api_and_the_demo_know_aiohttp(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in WITH_AIOHTTP:
        return
    modules = imported_modules(path, PACKAGE.parent)
    assert not [module for module in modules if is_within(module, "aiohttp")]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "sqlite"],
    ids=lambda path: path.name,
)
def test_only_the_sqlite_store_knows_sqlite(path: Path) -> None:
    assert "sqlite3" not in imported_modules(path, PACKAGE.parent)
