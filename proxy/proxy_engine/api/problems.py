"""What goes wrong in the API, as RFC 9457 describes it: application/problem+json."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, get_args, get_type_hints

import msgspec

from proxy_engine import failures, logs
from proxy_engine.errors import ProxyEngineError, StorageError
from proxy_engine.storage import NameTaken

STORE_RETRY_AFTER = "2"  # seconds
_log = logs.get("api")


class ProblemDetails(msgspec.Struct, kw_only=True):
    """The answer to a request that failed (RFC 9457)."""

    type: Annotated[str, msgspec.Meta(description="`urn:proxy-engine:` and the code")]
    title: Annotated[str, msgspec.Meta(description="the status in words")]
    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    code: Annotated[str, msgspec.Meta(description="for programs; it never changes")]
    detail: Annotated[str, msgspec.Meta(description="for people")]
    request_id: Annotated[str, msgspec.Meta(description="X-Request-Id; lines of the log have it")]


class Problem(Exception):
    """Raise it anywhere below a route. The route has to name its status."""

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        details = ProblemDetails(
            type=f"urn:proxy-engine:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            code=self.code,
            detail=self.detail,
            request_id=logs.field("request_id"),
        )
        return msgspec.json.encode(details) + b"\n"


def problem_of(error: Exception, where: str) -> Problem:
    """What an exception means to who asked. Bugs are logged, and told without details.

    Args:
        where: method and path, for the log.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, StorageError):
        failures.error(_log, "store", "api", "the store fails", request=where, error=error)
        wait = {"Retry-After": STORE_RETRY_AFTER}
        return Problem(503, "store_failed", "the store can not be used now", wait)
    if isinstance(error, NameTaken):
        return Problem(409, "name_taken", str(error))
    if isinstance(error, ProxyEngineError):
        return Problem(422, "bad_value", str(error))
    failures.bug(_log, "api", "handler failed", error, request=where)
    return Problem(500, "internal_error", "this is a bug; the server's log says more")


def names_in(kind: Any) -> set[str]:
    """The fields of a struct and of those in it: what somebody may have meant."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        inner = [names_in(hint) for hint in get_type_hints(kind).values()]
        return set(kind.__struct_fields__).union(*inner)
    return set().union(*(names_in(each) for each in get_args(kind)))
