"""A reverse proxy of one hop: aiohttp_proxy.py PORT TARGET_PORT

As its documentation leads one to write it: a server, one client session with as many
connections as it likes, bodies streamed.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"}
PIECE = 64 << 10


async def main(port: int, target: int) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            url = f"http://127.0.0.1:{target}{request.raw_path}"
            fields = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
            body = request.content if request.can_read_body else None
            async with session.request(request.method, url, headers=fields, data=body) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                response.content_length = answer.content_length
                await response.prepare(request)
                async for piece in answer.content.iter_chunked(PIECE):
                    await response.write(piece)
                return response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
