"""What goes wrong at the agent's listener, in the form of the server's API: RFC 9457."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from proxy_engine import logs
from proxy_engine.validation import explain

NO_STORE = {"Cache-Control": "no-store"}
_DETAILS = {  # of what the router says by itself
    404: "there is nothing at {0.path}",
    405: "{0.method} is not for {0.path}; Allow says what is",
}

_log = logs.get("admin")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(status: int, code: str, detail: str, **headers: str) -> web.Response:
    details = {
        "type": f"urn:proxy-engine:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    kind = {"Content-Type": "application/problem+json"}
    body = msgspec.json.encode(details) + b"\n"
    return web.Response(status=status, body=body, headers={**NO_STORE, **kind, **headers})


class BadQuery(Exception):
    pass


def query(request: web.Request, wanted: type[Any]) -> Any:
    """The parameters as this struct. Raises BadQuery."""
    for name, count in Counter(name for name, _ in request.query.items()).items():
        if count > 1:
            raise BadQuery(f"{name} is given twice")
    try:
        return msgspec.convert(dict(request.query), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise BadQuery(explain(error, wanted.__struct_fields__)) from None


@web.middleware
async def problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Around all of it: nothing answers with less than a problem."""
    try:
        return await handler(request)
    except BadQuery as error:
        return problem(400, "bad_query", str(error))
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        known = _DETAILS.get(error.status)
        detail = known.format(request) if known else error.text or code
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return problem(error.status, code, detail, **allowed)
    except Exception as error:
        _log.exception("handler failed", error, request=f"{request.method} {request.path}")
        return problem(500, "internal_error", "this is a bug; the agent's log says more")
