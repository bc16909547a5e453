"""The client of private access: a local port whose connections go to a TCP tunnel.

Each connection gets one of its own to the server, which authorises it (joining.py).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from proxy_engine import handshake, joining, logs
from proxy_engine.agent.pipe import HEAD_MAX, Pipe
from proxy_engine.agent.tls_pipe import TlsPipe, Trust
from proxy_engine.errors import error_text

if TYPE_CHECKING:
    from proxy_engine.agent.reach import Reach
    from proxy_engine.agent.servers import Servers, ServerUrl

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


async def open_tunnel(
    server: ServerUrl, reach: Reach, trust: Trust | None, token: str, tunnel: Tunnel
) -> Pipe:
    """A connection to the tunnel. Raises Refused, OSError, TimeoutError."""
    request = joining.request(
        authority=server.authority, token=token, device=tunnel.device, tunnel=tunnel.name
    )
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT):
        sock = socket.socket(fileno=(await reach(server)).fd)
        make = Pipe if trust is None else partial(TlsPipe, trust)
        _, pipe = await loop.create_connection(make, sock=sock)
        try:
            if isinstance(pipe, TlsPipe):
                await pipe.ready
            pipe.write(request)
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
        trust: Callable[[ServerUrl], Trust | None] = lambda server: None,
    ) -> None:
        self._servers = servers
        self._reach = reach
        self._token = token
        self._tunnel = tunnel
        self._refused = refused
        self._trust = trust
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
                trust = self._trust(server)
                pipe = await open_tunnel(server, self._reach, trust, self._token, self._tunnel)
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
