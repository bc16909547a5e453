"""The lifespan protocol of ASGI: what an application does before its first and after its last
request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from proxy_engine import logs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

ASGI = {"version": "3.0", "spec_version": "2.4"}
SHUTDOWN_TIMEOUT = 10.0  # seconds

_log = logs.get("apps")


class Lifespan:
    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}  # of the application; each request gets a copy
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure = ""
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Raises RuntimeError if the application says that it can not."""
        self._task = asyncio.create_task(self._run(), name="lifespan")
        self._messages.put_nowait({"type": "lifespan.startup"})
        await self._started.wait()
        if self._failure:
            raise RuntimeError(self._failure)

    async def shutdown(self) -> None:
        if self._task is None:
            return
        if not self._task.done():
            self._messages.put_nowait({"type": "lifespan.shutdown"})
            try:
                async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                    await self._stopped.wait()
            except TimeoutError:
                _log.warning("an application did not shut down in time")
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": ASGI, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._send)
        except Exception as error:
            # Before it has answered: it does not speak this protocol, which it need not.
            if self._started.is_set():
                _log.exception("an application's lifespan failed", error)
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith(".failed"):
            self._failure = message.get("message") or "it says so"
            if kind.startswith("lifespan.shutdown"):
                _log.warning("an application did not shut down", error=self._failure)
        (self._started if kind.startswith("lifespan.startup") else self._stopped).set()
