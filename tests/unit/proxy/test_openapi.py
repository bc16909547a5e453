"""The OpenAPI document of the real table."""

from __future__ import annotations

import re

from openapi_spec_validator import OpenAPIV31SpecValidator

from proxy_engine.api.openapi import document
from proxy_engine.api.table import TABLE, TOPICS


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_every_route_is_in_it_once_with_a_summary() -> None:
    found = [
        (method.upper(), path, operation["operationId"], bool(operation["summary"]))
        for path, operations in document()["paths"].items()
        for method, operation in operations.items()
    ]
    assert sorted(found) == sorted((each.method, each.path, each.name, True) for each in TABLE)
    assert len({route.name for route in TABLE}) == len(TABLE)


def test_names_in_paths_are_fields() -> None:
    for route in TABLE:
        names = set(re.findall(r"{(\w+)}", route.path))
        fields = set() if route.path_type is None else set(route.path_type.__struct_fields__)
        assert names == fields, route.name


def test_only_probes_are_public() -> None:
    assert {route.path for route in TABLE if route.scope == "public"} == {
        "/livez",
        "/readyz",
        "/health",
    }
    for route in TABLE:
        assert route.scope == "public" or route.path.startswith(
            ("/api/v1/", "/debug/", "/metrics")
        ), route.name
        assert route.scope != "read" or route.method == "GET", route.name


def test_parameters_refuse_unknown_names() -> None:
    for route in TABLE:
        for kind in (route.query_type, route.body_type):
            assert kind is None or kind.__struct_config__.forbid_unknown_fields, route.name
    assert len({topic.tag for topic in TOPICS}) == len(TOPICS)
