"""Around every handler: problems instead of exceptions, known hosts, admin tokens."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy_engine import logs, tokens
from proxy_engine.api.answers import problem
from proxy_engine.api.context import SERVER
from proxy_engine.errors import StorageError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

API = "/api/"
_log = logs.get("api")


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = (error.reason or "error").lower().replace(" ", "_")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return problem(error.status, code, error.text or "", headers)
    except StorageError as error:
        _log.error("the store fails", path=request.path, error=error)
        return problem(503, "store_failed", "the store can not be read", {"Retry-After": "2"})
    except Exception as error:
        _log.exception("handler failed", error, path=request.path)
        return problem(500, "internal_error", "this is a bug; the server's log says more")


@web.middleware
async def known_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse names that were never meant for us: a page may point its own at 127.0.0.1."""
    if request.path.startswith(API) and not _is_known_host(
        request.host, request.app[SERVER].settings.admin_hosts
    ):
        return problem(421, "unknown_host", "add this name to admin_hosts to use it here")
    return await handler(request)


def _is_known_host(authority: str, names: tuple[str, ...]) -> bool:
    host = authority.rpartition("]")[0].lstrip("[") or authority.partition(":")[0]
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@web.middleware
async def admin_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.path.startswith(API):
        return await handler(request)
    challenge = {"WWW-Authenticate": "Bearer"}
    secret = tokens.bearer(request.headers.get("Authorization"))
    if secret is None:
        return problem(401, "no_token", "send Authorization: Bearer ADMIN_TOKEN", challenge)
    token = await tokens.find(request.app[SERVER].store, secret)
    code = tokens.refusal(token, time.time())
    if code is not None or token is None:
        return problem(401, code or "unknown_token", "this token opens nothing", challenge)
    if token.kind != "admin":
        return problem(403, "wrong_kind", "this is a device token; the API needs an admin token")
    return await handler(request)
