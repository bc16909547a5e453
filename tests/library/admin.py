"""The admin API of a server of this process."""

from __future__ import annotations

from typing import Any

import aiohttp

from proxy_engine import Server


async def call(server: Server, method: str, path: str, body: Any = None) -> int:
    headers = {"Authorization": f"Bearer {server.admin_token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{server.admin_url}/api/v1{path}", json=body) as response,
    ):
        return response.status
