"""The client of private access: a local port whose connections go to a TCP tunnel.

Each connection gets one of its own to the server, which authorises it (joining.py). Bytes are
passed on as they come, at most BUFFER of them waiting for a side that does not take them;
each direction ends by itself, and a reset is passed on as a reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from proxy_engine import handshake, joining, logs
from proxy_engine.errors import error_text

if TYPE_CHECKING:
    from proxy_engine.reach import Reach
    from proxy_engine.servers import Servers, ServerUrl

BUFFER = 256 * 1024  # bytes waiting in each direction
HEAD_MAX = 16 * 1024
TIMEOUT = 15.0  # seconds for connecting and the answer

_log = logs.get("forward")


class Tunnel(NamedTuple):
    device: str
    name: str


class Refused(Exception):
    """The server does not let us in. is_final: it never will with this token."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message or 'refused'} ({status} {code})")
        self.is_final = status in (401, 403)


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
            self.other.transport.write(data)
            return
        self.early += data
        self.heard.set()
        if len(self.early) > HEAD_MAX:
            self.transport.pause_reading()

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
                one.other.transport.write(early)  # type: ignore[union-attr]
            one.transport.resume_reading()
            if one.is_ended:
                one.other.finish()  # type: ignore[union-attr]


async def open_tunnel(server: ServerUrl, reach: Reach, token: str, tunnel: Tunnel) -> Pipe:
    """A connection to the tunnel. Raises Refused, OSError, TimeoutError."""
    request = joining.request(
        authority=server.authority, token=token, device=tunnel.device, tunnel=tunnel.name
    )
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT):
        sock = socket.socket(fileno=(await reach(server)).fd)
        _, pipe = await loop.create_connection(Pipe, sock=sock)
        try:
            pipe.transport.write(request)
            head = await _head(pipe)
            status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
            if status == 101:
                return pipe
            while not pipe.is_ended and not pipe.ended.done():
                pipe.heard.clear()
                await pipe.heard.wait()
            raise Refused(status, *handshake.refusal_text(pipe.early))
        except BaseException:
            pipe.transport.abort()
            raise


async def _head(pipe: Pipe) -> bytes:
    while b"\r\n\r\n" not in pipe.early:
        if pipe.is_ended or pipe.ended.done() or len(pipe.early) > HEAD_MAX:
            raise ConnectionError("the server closed the connection without an answer")
        pipe.heard.clear()
        await pipe.heard.wait()
    head, _, pipe.early = pipe.early.partition(b"\r\n\r\n")
    return head


class Forwarder:
    """A local listener.

    Args:
        refused: called when the server will not let this token in.
    """

    def __init__(
        self,
        servers: Servers,
        reach: Reach,
        token: str,
        tunnel: Tunnel,
        refused: Callable[[str], None],
    ) -> None:
        self._servers = servers
        self._reach = reach
        self._token = token
        self._tunnel = tunnel
        self._refused = refused
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server

    async def listen(self, host: str, port: int) -> int:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, host, port)
        return int(self._listener.sockets[0].getsockname()[1])

    def _accept(self) -> Pipe:
        pipe = Pipe()
        task = asyncio.create_task(self._serve(pipe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return pipe

    async def _serve(self, local: Pipe) -> None:
        remote: Pipe | None = None
        try:
            remote = await self._open()
            if local.ended.done():
                return
            local.join(remote)
            await asyncio.wait([local.ended, remote.ended])
        except Refused as error:
            _log.warning("refused", tunnel="/".join(self._tunnel), reason=str(error))
            if error.is_final:
                self._refused(str(error))
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            reason = error_text(error) if isinstance(error, OSError) else str(error)
            _log.warning(
                "not connected", server=self._servers.server.authority, reason=reason or "timeout"
            )
        finally:
            local.reset()
            if remote is not None:
                remote.reset()

    async def _open(self) -> Pipe:
        while True:
            server = self._servers.server
            try:
                pipe = await open_tunnel(server, self._reach, self._token, self._tunnel)
            except OSError:
                # Others may have gone on to the next one meanwhile.
                if server == self._servers.server and not self._servers.failed(
                    may_be_carrier=False
                ):
                    raise
            else:
                self._servers.worked("raw")
                return pipe

    async def close(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
