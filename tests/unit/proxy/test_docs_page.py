"""/docs: served whole, by this server alone. (What it looks like a browser has to tell.)"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy_engine.api.pages import FILES, STATIC
from tests.unit.proxy import test_api

service, client = test_api.service, test_api.client


async def test_the_page_and_its_parts_need_no_token(client: TestClient[Any, Any]) -> None:
    for path, (_, media_type) in FILES.items():
        response = await client.get(path)
        assert (response.status, response.content_type) == (200, media_type)
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    page = await (await client.get("/docs")).text()
    linked = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert "/docs/docs.js" in linked
    for path in linked:
        assert path == "data:," or (await client.get(path)).status == 200, path


def test_nothing_comes_from_elsewhere() -> None:
    assert {name for name, _ in FILES.values()} == {path.name for path in STATIC.iterdir()}
    for path in STATIC.iterdir():
        text = path.read_text()
        assert not re.findall(r"https?://|//[a-z0-9-]+\.[a-z]|@import|url\(", text), path.name
        assert "innerHTML" not in text
        assert " style=" not in text  # the policy forbids it


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_its_script_is_javascript() -> None:
    subprocess.run(["node", "--check", str(STATIC / "docs.js")], check=True)
