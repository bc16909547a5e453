"""From a request to an answer by the table of routes, without knowing who carries them.

For each request: path, query and body checked against their
structs; Idempotency-Key and If-Match; then the handler; then the answer as JSON, with an
ETag where the route has one. Whatever fails on the way is a problem (problems.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_origin, get_type_hints

import msgspec

from proxy_engine.api.context import Call, Service
from proxy_engine.api.idempotency import Idempotency
from proxy_engine.api.problems import Problem, names_in, problem_of
from proxy_engine.api.routes import Route, Stream, Upgrade
from proxy_engine.audit import audited, describe
from proxy_engine.errors import suggestion
from proxy_engine.storage import Token
from proxy_engine.validation import explain

BODY_MAX = 1 << 20  # bytes
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Ask(NamedTuple):
    """A request to one route."""

    path: Mapping[str, str] = {}
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = {}  # names in lower case
    body: bytes = b""
    actor: Token | None = None  # None: public, or the machine's own user
    peer: str = ""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes | AsyncIterator[bytes] | Upgrade = b""


class Dispatcher:
    def __init__(self, routes: Iterable[Route], service: Service) -> None:
        self._service = service
        self._idempotency: Idempotency[Answer] = Idempotency()
        self._tagged = {
            route.path: route for route in routes if route.method == "GET" and route.has_etag
        }
        # If-Match and the change it guards must not be torn apart.
        self._changing = asyncio.Lock()

    async def answer(self, route: Route, ask: Ask) -> Answer:
        """Never raises."""
        try:
            if route.scope == "write" and ask.actor is not None and ask.actor.scopes.read_only:
                raise Problem(403, "read_only", "this token may look and not change")
            key = ask.headers.get("idempotency-key")
            if route.method != "POST" or key is None:
                return await self._checked(route, ask)
            scope = (ask.actor and ask.actor.id, route.name, tuple(ask.path.items()))
            return await self._idempotency.once(
                scope,
                key,
                ask.body,
                lambda: self._checked(route, ask),
                lambda answer: answer.status < 500 and answer.status != 409,
            )
        except Exception as error:
            return problem_answer(problem_of(error, f"{route.method} {route.path}"))

    async def _checked(self, route: Route, ask: Ask) -> Answer:
        try:
            arguments = _arguments(route, ask)  # RFC 9110, 13.2.1: what is wrong anyway comes first
            wanted = ask.headers.get("if-match")
            tagged = self._tagged.get(route.path)
            if wanted is None or tagged is None or tagged is route:
                return await self._run(route, ask, arguments)
            async with self._changing:
                reading = ask._replace(headers={}, query=(), body=b"")
                now = await self._run(tagged, reading, _arguments(tagged, reading))
                if now.status == 200 and not _is_same_state(now.headers["ETag"], wanted):
                    raise Problem(412, "changed_meanwhile", "it is not what If-Match names")
                return await self._run(route, ask, arguments)
        except Exception as error:
            return problem_answer(problem_of(error, f"{route.method} {route.path}"))

    async def _run(self, route: Route, ask: Ask, arguments: dict[str, Any]) -> Answer:
        call = Call(self._service, ask.actor, ask.peer, ask.headers)
        if route.scope == "write":
            result = await self._write(route, call, arguments)
        else:
            result = await route.handler(call, **arguments)
        return _encode(route, call, result, ask.headers.get("if-none-match"))

    async def _write(self, route: Route, call: Call, arguments: dict[str, Any]) -> Any:
        """Run a handler that changes something, with an audit record around it. The record
        has the names of what was given and not the values: these may be secrets."""
        body = arguments.get("body")
        given = msgspec.to_builtins(body) if isinstance(body, msgspec.Struct) else {}
        path = arguments.get("path")
        names = msgspec.structs.astuple(path) if isinstance(path, msgspec.Struct) else ()
        async with audited(
            self._service.store,
            actor=call.actor_name,
            address=call.peer,
            action=route.name,
            subject="/".join(map(str, names)) or str(given.get("name", "")),
            detail=describe(given),
        ):
            return await route.handler(call, **arguments)


def problem_answer(problem: Problem) -> Answer:
    kind = {"Content-Type": "application/problem+json"}
    return Answer(problem.status, {**HEADERS, **kind, **problem.headers}, problem.body())


def _arguments(route: Route, ask: Ask) -> dict[str, Any]:
    """Of the route's handler. Raises Problem."""
    arguments: dict[str, Any] = {}
    if route.path_type is not None:
        arguments["path"] = _texts(route.path_type, list(ask.path.items()), "bad_path")
    if route.query_type is not None:
        arguments["query"] = _texts(route.query_type, ask.query, "bad_query")
    elif ask.query:
        raise Problem(400, "bad_query", f'there is no parameter "{ask.query[0][0]}" here')
    if route.body_type is not None:
        arguments["body"] = _body(route.body_type, ask)
    return arguments


_hints = functools.cache(get_type_hints)  # of a route's structs; they take longer than the rest


def _texts(wanted: type[msgspec.Struct], pairs: Sequence[tuple[str, str]], code: str) -> Any:
    """Parameters as a struct: numbers and booleans are read from their text, and what may
    come more than once is a list."""
    types = _hints(wanted)
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in types:
            raise Problem(400, code, f'unknown parameter "{name}"{suggestion(name, types)}')
        if get_origin(types[name]) in (list, tuple):
            values.setdefault(name, []).append(text)
        elif name in values:
            raise Problem(400, code, f"{name} is given twice")
        else:
            values[name] = text
    try:
        return msgspec.convert(values, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, code, explain(error, types)) from None


def _body(wanted: type[msgspec.Struct], ask: Ask) -> Any:
    kind = ask.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "not_json", "send Content-Type: application/json")
    if len(ask.body) > BODY_MAX:
        raise Problem(413, "too_large", f"a body is at most {BODY_MAX} bytes")
    try:
        return msgspec.json.decode(ask.body, type=wanted)
    except msgspec.ValidationError as error:
        raise Problem(422, "bad_body", explain(error, names_in(wanted))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "bad_json", str(error)) from None


def _encode(route: Route, call: Call, result: Any, known: str | None) -> Answer:
    status = call.status or route.status
    headers = {**HEADERS, **call.answer_headers}
    if isinstance(result, Upgrade):
        return Answer(status, headers, result)
    if isinstance(result, Stream):
        headers["Content-Type"] = result.media_type
        return Answer(status, headers, result.chunks)
    if result is None:
        return Answer(status, headers)
    body = msgspec.json.encode(result) + b"\n"
    headers["Content-Type"] = "application/json"
    if route.has_etag and status == 200:
        headers["ETag"] = _etag(route, result, body)
        if route.method == "GET":
            headers["Cache-Control"] = "no-cache"  # kept by who asks, and asked for each time
            if known is not None and _is_among(headers["ETag"], known):
                del headers["Content-Type"]
                return Answer(304, headers)
    return Answer(status, headers, body)


def _etag(route: Route, result: Any, body: bytes) -> str:
    """Of all there is to see and, behind a hyphen, of what only changes change."""
    parts = [body]
    if route.settled:
        parts.append(msgspec.json.encode([getattr(result, name) for name in route.settled]))
    return '"' + "-".join(hashlib.blake2b(part, digest_size=12).hexdigest() for part in parts) + '"'


def _is_same_state(etag: str, listed: str) -> bool:
    """Whether nobody has changed it meanwhile: counts and times may have moved on."""
    return _is_among(_state(etag), ",".join(map(_state, listed.split(","))))


def _state(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"').rpartition("-")[2]


def _is_among(etag: str, listed: str) -> bool:
    """RFC 9110, 13.1: weak or strong makes no difference to us, "*" is any."""
    names = [name.strip().removeprefix("W/") for name in listed.split(",")]
    return "*" in names or etag in names


async def whole(answer: Answer) -> bytes:
    """The body, put together if it comes in pieces."""
    if isinstance(answer.body, bytes):
        return answer.body
    assert not isinstance(answer.body, Upgrade)
    async with contextlib.aclosing(answer.body) as chunks:  # type: ignore[type-var]
        return b"".join([chunk async for chunk in chunks])
