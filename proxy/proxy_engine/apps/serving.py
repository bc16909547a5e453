"""Serves one application on a Unix socket in a folder that nobody else can enter.

No TCP port is opened, so nothing but the tunnel leads to the application.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy_engine.apps.asgi import AsgiHandler
from proxy_engine.apps.lifespan import Lifespan
from proxy_engine.errors import TunnelError, UsageError
from proxy_engine.tasks import finish
from proxy_engine.values import UNIX, UNIX_SIZE_MAX

BACKLOG = 1024  # connections that wait to be accepted: beyond, Unix sockets refuse at once
LINE_MAX = 1 << 15  # bytes of a request line or field: what the server takes at most
SHUTDOWN_TIMEOUT = 5.0  # seconds for requests under way when a tunnel is closed


class ServedApp:
    """An application that is being served; `target` is where."""

    def __init__(self, folder: str, runner: web.BaseRunner, lifespan: Lifespan | None) -> None:
        self._folder = folder
        self._runner = runner
        self._lifespan = lifespan
        self.target = f"{UNIX}{folder}/app"

    async def close(self) -> None:
        """Let requests under way finish, for a while, then shut the application down."""
        try:
            await self._runner.cleanup()
            if self._lifespan is not None:
                await self._lifespan.shutdown()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


async def serve_app(app: object, tunnel: str) -> ServedApp:
    """
    Args:
        app: an aiohttp.web.Application, or an ASGI 3 application.
        tunnel: whose target it is, for errors.
    Raises: UsageError if it is neither, TunnelError if it does not start.
    """
    lifespan = None
    runner: web.BaseRunner
    if isinstance(app, web.Application):
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    elif callable(app):
        lifespan = Lifespan(app)
        handler = AsgiHandler(app, lifespan.state)
        options: dict[str, Any] = {
            "access_log": None,
            "handler_cancellation": True,
            "auto_decompress": False,
            "max_line_size": LINE_MAX,
            "max_field_size": LINE_MAX,
        }
        server = web.Server(handler, **options)
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT)
    else:
        raise UsageError(
            f'tunnel "{tunnel}": {type(app).__name__} is no target: give HOST:PORT, unix:/PATH, '
            "an aiohttp.web.Application or an ASGI application"
        )
    served = ServedApp(_folder(), runner, lifespan)
    try:
        if lifespan is not None:
            await lifespan.startup()
        await runner.setup()
        site = web.UnixSite(runner, served.target.removeprefix(UNIX), backlog=BACKLOG)
        await finish(site.start())  # asyncio forgets a server whose start is cancelled
    except Exception as error:
        await finish(served.close())
        raise TunnelError(
            f'the application of tunnel "{tunnel}" does not start: {error!r}',
            reason="app_failed",
            tunnel=tunnel,
        ) from error
    except BaseException:
        await finish(served.close())
        raise
    return served


def _folder() -> str:
    """A new one, for us alone, whose name leaves room in a socket's."""
    folder = tempfile.mkdtemp(prefix="proxy-engine-")
    if len(folder.encode()) + 8 <= UNIX_SIZE_MAX:
        return folder
    Path(folder).rmdir()  # a very long TMPDIR
    return tempfile.mkdtemp(prefix="proxy-engine-", dir="/tmp")
