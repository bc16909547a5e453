"""The OpenAPI 3.1 document, made of the table of routes."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

import proxy_engine
from proxy_engine.api.problems import ProblemDetails
from proxy_engine.api.routes import Route, Routes, Stream, Upgrade
from proxy_engine.api.table import TOPICS

ABOUT = """\
Send an admin token as `Authorization: Bearer TOKEN`. Errors are `application/problem+json`
(RFC 9457) with a `code` that never changes. Lists come in pages: pass `next` of one as `cursor` of
the next. A POST with an `Idempotency-Key` is done once, however often it is sent within a day.
Times are seconds since the epoch."""

# Statuses that a route of this kind may have besides its own.
_OF_API = {
    401: "no admin token, or one that opens nothing",
    403: "the token does not allow this",
    429: "too many failed logins from this address",
    421: "a Host name the API does not answer to",
    503: "the store can not be used now, or the engine does not answer",
}
_OF_BODY = {
    400: "not JSON, or a parameter that is wrong",
    413: "a body that is too large",
    415: "not application/json",
    422: "JSON that is not what is wanted here",
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "makes it safe to send the same request again",
    # Visible: a field value has no blanks at its ends.
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "change it only if nobody has since it had this ETag",
    "schema": {"type": "string"},
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "answer 304 if it still has this ETag",
    "schema": {"type": "string"},
}


def document(topics: Sequence[Routes] = TOPICS) -> dict[str, Any]:
    routes = [route for topic in topics for route in topic]
    types: list[Any] = [ProblemDetails]
    for route in routes:
        types += [route.path_type, route.query_type, route.body_type, route.result_type]
        types.append(route.messages)
    wanted = [kind for kind in types if kind not in (None, Stream, Upgrade)]
    schemas, components = msgspec.json.schema_components(
        wanted, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(map(repr, wanted), schemas, strict=True))
    inputs = {kind for route in routes for kind in (route.path_type, route.query_type)}
    names = {kind.__name__ for kind in inputs if kind is not None}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(route.path, {})
        operations[route.method.lower()] = _operation(route, by_type, components)
    found = {
        "openapi": "3.1.0",
        "info": {
            "title": "proxy-engine",
            "version": proxy_engine.__version__,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": topic.tag, "description": topic.about} for topic in topics],
        "paths": paths,
        "components": {
            # Structs of parameters are said parameter by parameter.
            "schemas": {key: value for key, value in components.items() if key not in names},
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}},
        },
    }
    # Defaults that are tuples or structs as JSON has them.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return plain


def statuses(route: Route) -> dict[int, str]:
    """Every problem this route can answer with, and when."""
    found: dict[int, str] = {}
    if route.scope != "public":
        found |= _OF_API
    if route.path_type or route.query_type:
        found[400] = "a parameter that is wrong"
    if route.body_type:
        found |= _OF_BODY
    if route.method == "POST":
        found |= {
            400: "a parameter or key that is wrong",
            409: "an idempotency key whose request is under way",
            422: "not what is wanted here, or an idempotency key of another request",
        }
    if route.has_etag and route.method != "GET":
        found[412] = "it is not what If-Match names any more"
    return {**found, **route.problems}


def _operation(route: Route, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    for place, kind in (("path", route.path_type), ("query", route.query_type)):
        if kind is not None:
            parameters += _parameters(place, components[kind.__name__])
    if route.method == "POST":
        parameters.append(_IDEMPOTENCY_KEY)
    if route.has_etag:
        parameters.append(_IF_NONE_MATCH if route.method == "GET" else _IF_MATCH)
    answers: dict[str, Any] = {}
    for status, when in {route.status: "", **route.also}.items():
        answers[str(status)] = _answer(route, when or HTTPStatus(status).phrase, schemas)
    if route.has_etag and route.method == "GET":
        answers["304"] = {"description": "still as If-None-Match has it"}
    for status, when in sorted(statuses(route).items()):
        answers.setdefault(
            str(status),
            {
                "description": when,
                "content": {"application/problem+json": {"schema": schemas[repr(ProblemDetails)]}},
            },
        )
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": answers,
        "security": [] if route.scope == "public" else [{"admin": []}],
    }
    if route.scope != "public":
        operation["x-scope"] = route.scope
    if route.description:
        operation["description"] = route.description
    if parameters:
        operation["parameters"] = parameters
    if route.body_type is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[repr(route.body_type)]}},
        }
    return operation


def _answer(route: Route, description: str, schemas: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if route.result_type is Stream:
        text = {"schema": {"type": "string"}}
        answer["content"] = dict.fromkeys(route.media_types, text)
    elif route.result_type is Upgrade:
        answer["x-messages"] = schemas[repr(route.messages)]
    elif route.result_type is not None:
        answer["content"] = {"application/json": {"schema": schemas[repr(route.result_type)]}}
    if route.has_etag and route.result_type is not None:
        answer["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return answer


def _parameters(place: str, component: dict[str, Any]) -> list[dict[str, Any]]:
    required = component.get("required", [])
    found = []
    for name, schema in component["properties"].items():
        schema = dict(schema)
        parameter = {"name": name, "in": place, "required": place == "path" or name in required}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        found.append({**parameter, "schema": schema})
    return found
