"""A server that speaks MongoDB's protocol, for tests: run by a Python of its own.

    python mongo_wire.py PORT [FILE]      prints its address, ends with its standard input

mongoeco wants Python 3.13, which ours need not be; see mongo_server.py. Without a file it keeps
everything in memory. It is slow: good for what is right, not for how fast.
"""

from __future__ import annotations

import asyncio
import sys

from mongoeco.engines.sqlite import SQLiteEngine
from mongoeco.wire import AsyncMongoEcoProxyServer


async def main(port: int, file: str) -> None:
    engine = SQLiteEngine(file) if file else None
    async with AsyncMongoEcoProxyServer(host="127.0.0.1", port=port, engine=engine) as server:
        print(f"{server.address.host}:{server.address.port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(int(sys.argv[1]), sys.argv[2] if sys.argv[2:] else ""))
