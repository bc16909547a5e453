"""Who may import what inside the control plane."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proxy_engine
from tests.unit.test_layers import imported_modules, is_within

PACKAGE = Path(proxy_engine.__file__).parent
WITH_AIOHTTP = ("agent_admin", "otlp", "api", "apps", "demo", "testing.py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_only_what_serves_http_knows_aiohttp(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in WITH_AIOHTTP or path.name == "http_post.py":
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


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "mongo"],
    ids=lambda path: path.name,
)
def test_only_the_mongodb_store_knows_mongodb(path: Path) -> None:
    modules = imported_modules(path, PACKAGE.parent)
    assert not modules & {"motor", "pymongo", "bson"}


def test_the_command_line_starts_without_stores_and_servers() -> None:
    """They take a second to import, of which --help needs nothing."""
    script = (
        "import sys; from proxy_engine.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'aiohttp', 'asyncio', 'bson', 'motor', 'pymongo', 'sqlite3', 'uvloop'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_a_verb_that_works_on_the_store_here_starts_without_aiohttp() -> None:
    code = (
        "import sys; import proxy_engine.api.table, proxy_engine.api.dispatch; "
        "import proxy_engine.cli.client; sys.exit('aiohttp' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_package_itself_loads_nothing() -> None:
    code = (
        "import sys; import proxy_engine; from proxy_engine import ConnectError\n"
        "heavy = {'aiohttp', 'asyncio', 'msgspec', 'ssl', 'proxy_engine_core'}\n"
        "print(heavy & set(sys.modules)); import proxy_engine.testing\n"
        "print({'aiohttp', 'proxy_engine_core'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\nset()\n", done.stderr


def test_every_name_of_the_package_is_there() -> None:
    for name in proxy_engine.__all__:
        assert getattr(proxy_engine, name).__name__ == name
    assert set(proxy_engine.__all__) == set(proxy_engine._PLACES)
    assert set(proxy_engine.__all__) <= set(dir(proxy_engine))
