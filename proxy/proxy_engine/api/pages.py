"""/openapi.json, and /docs: a page made of it in the browser, with nothing from elsewhere."""

from __future__ import annotations

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
    app.router.add_get("/openapi.json", _serve(msgspec.json.encode(document()) + b"\n"))
    for path, (name, media_type) in FILES.items():
        body = (STATIC / name).read_bytes()
        app.router.add_get(path, _serve(body, media_type, PAGE_HEADERS))


def _serve(
    body: bytes, media_type: str = "application/json", headers: dict[str, str] = HEADERS
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    charset = None if media_type == "application/json" else "utf-8"

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=media_type, charset=charset, headers=headers)

    return handle
