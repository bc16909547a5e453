"""The admin listener: the table of routes on aiohttp.

/api/v1 needs an admin token; the probes, /openapi.json and /docs need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy_engine.api.context import Service
from proxy_engine.api.dispatch import BODY_MAX, Answer, Ask, Dispatcher, problem_answer
from proxy_engine.api.middleware import (
    ACTOR,
    SERVER,
    admin_only,
    errors,
    known_hosts,
    name_answer,
    request_ids,
)
from proxy_engine.api.pages import add_pages
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Upgrade
from proxy_engine.api.sockets import SOCKETS, close_all
from proxy_engine.api.table import TABLE
from proxy_engine.tasks import finish

if TYPE_CHECKING:
    import ssl

    from proxy_engine.api.routes import Route

__all__ = ["Service", "create_app", "start_api"]

SHUTDOWN_TIMEOUT = 2.0  # seconds for answers in flight when the program ends

LINE_MAX = 1 << 16  # bytes of a request line: every filter at its longest, percent-encoded

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(service: Service) -> web.Application:
    around = [request_ids, errors, known_hosts, admin_only]
    app = web.Application(middlewares=around, client_max_size=BODY_MAX)
    app.on_response_prepare.append(name_answer)
    app[SERVER] = service
    app[SOCKETS] = set()
    app.on_shutdown.append(close_all)
    dispatcher = Dispatcher(TABLE, service)
    for route in TABLE:
        handler = _handler(route, dispatcher)
        if route.method == "GET":
            app.router.add_get(route.path, handler)  # and HEAD
        else:
            app.router.add_route(route.method, route.path, handler)
    add_pages(app)
    return app


class _Protocol(web.RequestHandler):
    """Says problems too where aiohttp answers by itself: to what it can not parse."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # for its log
        if status < 500:
            problem = Problem(
                status, "bad_request", "this is not valid HTTP, or its head is too large"
            )
        else:
            problem = Problem(status, "internal_error", "this is a bug; the server's log says more")
        answer = problem_answer(problem)
        response = web.Response(status=status, headers=answer.headers, body=problem.body())
        response.force_close()
        return response


class _Runner(web.AppRunner):
    @property
    def server(self) -> Any:
        """What makes a protocol for each connection."""
        server = super().server
        options: Any = {"access_log": None, "max_line_size": LINE_MAX}
        return server and partial(_Protocol, server, loop=asyncio.get_running_loop(), **options)


async def start_api(
    listener: socket.socket, service: Service, tls: ssl.SSLContext | None = None
) -> web.AppRunner:
    runner = _Runner(create_app(service), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    try:
        await runner.setup()
        # asyncio forgets a server whose start is cancelled, and listens on.
        await finish(web.SockSite(runner, listener, ssl_context=tls).start())
    except BaseException:
        await finish(runner.cleanup())
        raise
    return runner


def _handler(route: Route, dispatcher: Dispatcher) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        ask = Ask(
            path=request.match_info,
            query=list(request.query.items()),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read() if route.body_type is not None else b"",
            actor=request.get(ACTOR),
            peer=request.remote or "",
        )
        return await _send(request, await dispatcher.answer(route, ask))

    return handle


async def _send(request: web.Request, answer: Answer) -> web.StreamResponse:
    if isinstance(answer.body, bytes):
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    if isinstance(answer.body, Upgrade):
        upgraded: web.StreamResponse = await answer.body.serve(request)
        return upgraded
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    await response.prepare(request)
    async with contextlib.aclosing(answer.body) as chunks:  # type: ignore[type-var]
        if request.method != "HEAD":
            async for chunk in chunks:
                await response.write(chunk)
    await response.write_eof()
    return response
