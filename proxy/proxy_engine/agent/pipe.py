"""Two connections, joined. Bytes are passed on as they come, at most BUFFER of them waiting for a
side that does not take them; each direction ends by itself, and a reset is passed on as a reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

BUFFER = 256 * 1024  # bytes waiting in each direction
HEAD_MAX = 16 * 1024


class Pipe(asyncio.Protocol):
    """One side of a forwarded connection; the other is `other`."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.other: Pipe | None = None
        self.early = b""  # what came before there was another side
        self.is_ended = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit it
        self.transport.set_write_buffer_limits(high=BUFFER)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)
            return
        self.early += data
        self.heard.set()
        if len(self.early) > HEAD_MAX:
            self.transport.pause_reading()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def eof_received(self) -> bool:
        self.is_ended = True
        self.heard.set()
        if self.other is not None:
            self.other.finish()
        return True  # we may still write

    def finish(self) -> None:
        if not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()
        self._end_if_both()

    def _end_if_both(self) -> None:
        if self.other is not None and self.is_ended and self.other.is_ended:
            self.transport.close()
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.heard.set()
        if self.other is not None and (error is not None or not self.is_ended):
            self.other.reset()
        if not self.ended.done():
            self.ended.set_result(None)

    def reset(self) -> None:
        """Never an end that looks complete."""
        if self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def join(self, other: Pipe) -> None:
        """Both sides are there: what came early goes on its way."""
        self.other, other.other = other, self
        for one in (self, other):
            early, one.early = one.early, b""
            if early:
                one.other.write(early)  # type: ignore[union-attr]
            one.transport.resume_reading()
            if one.is_ended:
                one.other.finish()  # type: ignore[union-attr]
