"""The public WebSocket suite, through a tunnel: what passes without it passes with it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.e2e.harness import Pair

KOSOKU = Path(sys.executable).with_name("kosoku")
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
# 9: megabytes for minutes, as test_websocket.py does in seconds; 12, 13: compression, which
# passes through a tunnel as any other byte.
EXCLUDED = ["-x", "9.*", "-x", "12.*", "-x", "13.*"]


@pytest.fixture
def quiet_target() -> Iterator[logging.Logger]:
    """The suite provokes hundreds of protocol errors, each would be logged with a traceback."""
    logger = logging.getLogger("tests.websockets")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    yield logger
    logger.propagate = True


async def kosoku(address: str, reports: Path) -> dict[str, str]:
    """Behaviour by case."""
    suite = await asyncio.create_subprocess_exec(
        KOSOKU, "-m", "fuzzingclient", "-p", "8", *EXCLUDED, "-o", str(reports), address,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await suite.wait()
    [cases] = json.loads((reports / "index.json").read_text()).values()
    return {name: case["behavior"] for name, case in cases.items()}


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.mark.skipif(not KOSOKU.exists(), reason="kosoku is not installed: pip install kosoku")
async def test_every_websocket_case_that_passes_directly_passes_through_a_tunnel(
    tmp_path: Path, quiet_target: logging.Logger
) -> None:
    async with serve(
        echo, "127.0.0.1", 0, max_size=None, compression=None, logger=quiet_target
    ) as target:
        port = target.sockets[0].getsockname()[1]
        pair = Pair(tmp_path / "data", server_args=["--default-tunnel", "web"])
        try:
            await asyncio.to_thread(pair.connect, {"web": port})
            directly = await kosoku(f"127.0.0.1:{port}", tmp_path / "directly")
            tunnelled = await kosoku(f"127.0.0.1:{pair.port}", tmp_path / "tunnelled")
        finally:
            pair.close()
    failed = {name for name, behavior in directly.items() if behavior not in PASSED}
    assert len(tunnelled) == len(directly) > 200
    assert {name for name, behavior in tunnelled.items() if behavior not in PASSED} == failed
    assert len(failed) < 3  # the target's own
