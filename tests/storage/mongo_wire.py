"""A server that speaks MongoDB's protocol, for tests: run by a Python of its own.

    python mongo_wire.py [PORT]      prints its address, ends with its standard input

mongoeco wants Python 3.13, which ours need not be; see mongo_server.py. In memory and slow:
good for what is right, not for how fast.
"""

from __future__ import annotations

import asyncio
import sys

from mongoeco.wire import AsyncMongoEcoProxyServer


async def main(port: int) -> None:
    async with AsyncMongoEcoProxyServer(host="127.0.0.1", port=port) as server:
        print(f"{server.address.host}:{server.address.port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 0))
