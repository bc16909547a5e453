"""An HTTP proxy that knows CONNECT only, and leads every name to one port of this machine.

with ConnectProxy(port, user="u:p") as proxy:     proxy.port, proxy.asked
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from types import TracebackType
from typing import Self

from tests.e2e.processes import TIMEOUT


class ConnectProxy:
    """See above.

    Args:
        lead_to: the port on 127.0.0.1 behind every name.
        user: "NAME:PASSWORD" that is asked for; "" for none.
        forbids: connections whose first bytes hold this are cut, as by a proxy that looks
            into what passes; b"" for none.
    """

    def __init__(self, lead_to: int, *, user: str = "", forbids: bytes = b"") -> None:
        self.asked: list[str] = []  # request lines
        self.firsts: list[bytes] = []  # what came first through each tunnel
        self._lead_to = lead_to
        self._wanted = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""
        self._forbids = forbids
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(TIMEOUT)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            self.asked.append(lines[0])
            if self._wanted and f"Proxy-Authorization: {self._wanted}" not in lines:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            else:
                await self._tunnel(reader, writer)
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._lead_to)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        first = await reader.read(65536)
        self.firsts.append(first)
        if not self._forbids or self._forbids not in first:
            behind_writer.write(first)
            await asyncio.gather(_copy(reader, behind_writer), _copy(behind_reader, writer))
        behind_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
