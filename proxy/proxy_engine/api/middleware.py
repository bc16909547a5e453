"""Around every handler: problems instead of exceptions, known hosts, admin tokens."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy_engine import logs, tokens
from proxy_engine.api.context import Service
from proxy_engine.api.dispatch import problem_answer
from proxy_engine.api.problems import Problem, problem_of
from proxy_engine.storage import Token
from proxy_engine.values import is_own_host

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROTECTED = ("/api/", "/debug/")
METRICS = "/metrics"
SERVER: web.AppKey[Service] = web.AppKey("server", Service)
ACTOR: web.RequestKey[Token] = web.RequestKey("actor", Token)
ID: web.RequestKey[str] = web.RequestKey("request_id", str)
TOKEN_SUBPROTOCOL = "bearer."
CHALLENGE = {"WWW-Authenticate": "Bearer"}
_DETAILS = {  # of what the router says by itself
    404: "there is nothing at {0.path}",
    405: "{0.method} is not for {0.path}; Allow says what is",
}


REQUEST_ID = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)  # as the engine takes them


@web.middleware
async def request_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Each request has an id, the caller's if it sent one: in the answer, in the problem that it
    may be, and on each line of the log that is about it."""
    given = request.headers.get(REQUEST_ID, "")
    request[ID] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    with logs.fields(request_id=request[ID]):
        return await handler(request)


async def name_answer(request: web.Request, response: web.StreamResponse) -> None:
    """As an answer begins."""
    response.headers["Server"] = "proxy-engine"  # and not what it is made of
    if ID in request:
        response.headers[REQUEST_ID] = request[ID]


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = (error.reason or "error").lower().replace(" ", "_")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        detail = _DETAILS.get(error.status, error.text or code).format(request)
        problem = Problem(error.status, code, detail, headers)
    except Exception as error:
        problem = problem_of(error, f"{request.method} {request.path}")
    answer = problem_answer(problem)
    return web.Response(status=answer.status, headers=answer.headers, body=problem.body())


@web.middleware
async def known_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse names that were never meant for us: a page may point its own at 127.0.0.1."""
    if request.path.startswith(PROTECTED) and not is_own_host(
        request.host, request.app[SERVER].settings.admin_hosts
    ):
        raise Problem(421, "unknown_host", "add this name to admin_hosts to use it here")
    return await handler(request)


@web.middleware
async def admin_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Everything below /api/ and /debug/ wants a live admin token, paths that do not exist too; and
    /metrics, if it is not public."""
    if not request.path.startswith(PROTECTED) and (
        request.path != METRICS or request.app[SERVER].settings.metrics_public
    ):
        return await handler(request)
    secret = tokens.bearer(request.headers.get("Authorization")) or _token_of(request)
    if secret is None:
        raise Problem(401, "no_token", "send Authorization: Bearer ADMIN_TOKEN", CHALLENGE)
    service, peer = request.app[SERVER], request.remote or ""
    if not service.cache.is_familiar(tokens.digest(secret)):
        wait = service.guard.wait(peer, time.monotonic())
        if wait:
            retry = {"Retry-After": str(math.ceil(wait))}
            raise Problem(429, "too_many_logins", "too many failed logins from here", retry)
    token = await tokens.find(service.cache, secret)
    code = tokens.refusal(token, time.time())
    if code is not None or token is None:
        service.guard.fail(peer, time.monotonic())
        raise Problem(401, code or "unknown_token", "this token opens nothing", CHALLENGE)
    if token.kind != "admin":
        raise Problem(403, "wrong_kind", "this is a device token; the API needs an admin token")
    service.links.registry.token_used(token.id)
    request[ACTOR] = token
    return await handler(request)


def _token_of(request: web.Request) -> str | None:
    """The token among the subprotocols of a WebSocket: a page can not set Authorization
    there."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return None
    for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith(TOKEN_SUBPROTOCOL):
            return name.strip().removeprefix(TOKEN_SUBPROTOCOL)
    return None
