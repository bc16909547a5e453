"""Attributes in OTLP's form, and what describes this server."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

import proxy_engine

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

SCOPE = InstrumentationScope(name="proxy_engine", version=proxy_engine.__version__)

Value = str | bool | int | float
Attributes: TypeAlias = "RepeatedCompositeFieldContainer[KeyValue]"


_FIELDS = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}


def put(target: Attributes, pairs: Iterable[tuple[str, Value]]) -> None:
    """Add them where they belong: made elsewhere they would be copied there."""
    for name, value in pairs:
        each = target.add()
        each.key = name
        setattr(each.value, _FIELDS[type(value)], value)


def resource(service_name: str, given: Mapping[str, str]) -> Resource:
    """
    Args:
        given: wins over what we know, but for the name.
    """
    found: dict[str, Value] = {
        "service.version": proxy_engine.__version__,
        "service.instance.id": str(uuid.uuid4()),
        "host.name": platform.node(),
        "process.pid": os.getpid(),
        "process.runtime.name": platform.python_implementation().lower(),
        "process.runtime.version": platform.python_version(),
        "telemetry.sdk.name": "proxy-engine",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": proxy_engine.__version__,
        **given,
        "service.name": service_name,
    }
    described = Resource()
    put(described.attributes, sorted(found.items()))
    return described
