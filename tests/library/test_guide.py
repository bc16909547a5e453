"""docs/library.md: every example is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy_engine import errors

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "library.md").read_text()
EXAMPLES = re.findall(r"^```python( test)?\n(.*?)^```$", GUIDE, re.M | re.S)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def execute(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("code", [code for kind, code in EXAMPLES if not kind])
def test_an_example_runs(code: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(code)
    done = execute("-W", "error", "example.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_serve_tests_of_others(mode: str, tmp_path: Path) -> None:
    [code] = [code for kind, code in EXAMPLES if kind]
    override = """

@pytest.fixture
def proxy_settings():
    return {"workers": 1, "domain": "shop.example"}


@pytest.mark.asyncio
async def test_settings(proxy_server, proxy_client):
    assert proxy_server.settings.domain == "shop.example"
    assert proxy_server.devices == ["pytest"]
"""
    (tmp_path / "test_shop.py").write_text(code + override)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    args = ("-p", "proxy_engine.testing", "-o", f"asyncio_mode={mode}", "-q", "test_shop.py")
    done = execute("-m", "pytest", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_guide_names_every_error() -> None:
    named = set(re.findall(r"^\| `(\w+Error)` \|", GUIDE, re.M))
    there = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.ProxyEngineError)
    }
    assert named == there - {"ProxyEngineError"}
