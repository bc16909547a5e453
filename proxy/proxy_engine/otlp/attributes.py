"""Attributes in OTLP's form, and what describes this server."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterable, Mapping

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

import proxy_engine

SCOPE = InstrumentationScope(name="proxy_engine", version=proxy_engine.__version__)

Value = str | bool | int | float


def attribute(name: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=value))
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    return KeyValue(key=name, value=AnyValue(double_value=value))


def attributes(pairs: Iterable[tuple[str, Value]]) -> list[KeyValue]:
    return [attribute(name, value) for name, value in pairs]


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
    return Resource(attributes=attributes(sorted(found.items())))
