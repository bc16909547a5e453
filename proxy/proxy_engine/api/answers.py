"""JSON answers, and problems as RFC 9457 describes them."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def json(data: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(data) + b"\n",
        status=status,
        content_type="application/json",
        headers=_HEADERS,
    )


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"type": "about:blank", "status": status, "title": code, "detail": detail}
    return web.Response(
        body=msgspec.json.encode(body) + b"\n",
        status=status,
        content_type="application/problem+json",
        headers={**_HEADERS, **(headers or {})},
    )
