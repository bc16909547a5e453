"""The example of docs/websocket.md, as it stands there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

PAGE = Path(__file__).parents[3] / "docs" / "websocket.md"


def example() -> Any:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len([line for line in code.splitlines() if line.startswith("    ")]) <= 11
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["serve"]


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_the_example_is_an_echo_server(compression: str | None) -> None:
    server = await asyncio.start_server(example(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connect(f"ws://127.0.0.1:{port}/", compression=compression) as client:
        assert bool(client.protocol.extensions) is (compression is not None)
        for text in ["hello", "Grüße " * 1000, ""]:
            await client.send(text)
            assert await client.recv() == text
        await (await client.ping())
        await client.close()
        assert client.close_code == 1000
