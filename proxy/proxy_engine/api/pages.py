"""/openapi.json, and /docs: a page made of it in the browser, with nothing from elsewhere."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from proxy_engine.api.dispatch import HEADERS
from proxy_engine.api.openapi import document

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    **HEADERS,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
}
FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.css": ("docs.css", "text/css"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
}


def add_pages(app: web.Application) -> None:
    app.router.add_get("/openapi.json", _serve_document)
    for path, (name, media_type) in FILES.items():
        body = (STATIC / name).read_bytes()
        app.router.add_get(path, _serve(body, media_type))


@functools.cache
def _document() -> bytes:
    """Made when it is first asked for: that takes longer than a server takes to start."""
    return msgspec.json.encode(document()) + b"\n"


async def _serve_document(request: web.Request) -> web.StreamResponse:
    body = await asyncio.to_thread(_document)
    return web.Response(body=body, content_type="application/json", headers=HEADERS)


def _serve(body: bytes, media_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=body, content_type=media_type, charset="utf-8", headers=PAGE_HEADERS
        )

    return handle
