"""Settings of the export to a collector, and the variables of OpenTelemetry that say the same.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ names them. They
are the last to be asked: a flag, a variable of ours or the file is about this program, they are
about all programs of a machine or pod.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from proxy_engine.errors import UsageError
from proxy_engine.settings import setting_values as parse

SIGNALS = ("metrics", "traces")
SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)
PROTOCOL = "http/protobuf"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of a header, RFC 9110
_VALUE = re.compile(r"[ -~]*")
# Variables that need no translation.
_SAME = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "otlp_endpoint",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "otlp_metrics_endpoint",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "otlp_traces_endpoint",
    "OTEL_EXPORTER_OTLP_HEADERS": "otlp_headers",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "otlp_compression",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "otlp_ca",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "otlp_cert",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "otlp_key",
    "OTEL_SERVICE_NAME": "otlp_service_name",
    "OTEL_RESOURCE_ATTRIBUTES": "otlp_attributes",
    "OTEL_TRACES_SAMPLER": "otlp_sampler",
    "OTEL_TRACES_SAMPLER_ARG": "otlp_sample",
}
_MILLISECONDS = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "otlp_timeout",
    "OTEL_METRIC_EXPORT_INTERVAL": "otlp_interval",
}
_EXPORTERS = {"metrics": "OTEL_METRICS_EXPORTER", "traces": "OTEL_TRACES_EXPORTER"}


def pairs(text: str) -> dict[str, str]:
    """`name=value,...`, percent-encoded, as OpenTelemetry has them. Raises: ValueError."""
    found = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(f'expected NAME=VALUE, not "{item}"')
        found[unquote(name.strip())] = unquote(value.strip())
    return found


def to_endpoint(value: Any) -> str:
    url = parse.to_web_url(value)
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a URL without user and query: what is secret goes into otlp_headers")
    return url


def to_signals(value: Any) -> tuple[str, ...]:
    names = parse.to_names(value)
    for name in names:
        if name not in SIGNALS:
            raise ValueError(f'"{name}" is none of: {", ".join(SIGNALS)}')
    return tuple(name for name in SIGNALS if name in names)


def to_attributes(value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {parse.to_text(name): parse.to_text(item) for name, item in value.items()}
    return pairs(parse.to_text(value))


def to_headers(value: Any) -> str:
    """The text, which is a secret: what is wrong with it is said without it."""
    text = parse.to_text(value)
    headers(text)
    return text


def headers(text: str) -> dict[str, str]:
    """Raises: ValueError, which does not hold the text."""
    try:
        found = pairs(text)
    except ValueError:
        raise ValueError("expected NAME=VALUE,...") from None
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(found[name]) for name in found):
        raise ValueError("a header has characters that it may not have")
    return found


PARSERS: dict[str, Callable[[Any], Any]] = {
    "otlp_endpoint": to_endpoint,
    "otlp_metrics_endpoint": to_endpoint,
    "otlp_traces_endpoint": to_endpoint,
    "otlp_signals": to_signals,
    "otlp_headers": to_headers,
    "otlp_headers_file": parse.to_text,
    "otlp_interval": parse.to_duration_within(0.1, 3600),
    "otlp_sampler": parse.to_choice(*SAMPLERS),
    "otlp_sample": parse.to_share,
    "otlp_service_name": parse.to_text,
    "otlp_attributes": to_attributes,
    "otlp_timeout": parse.to_duration_within(0.1, 300),
    "otlp_compression": parse.to_choice("none", "gzip"),
    "otlp_queue": parse.to_size,
    "otlp_ca": parse.to_text,
    "otlp_cert": parse.to_text,
    "otlp_key": parse.to_text,
}


def environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Variable, setting and value, for those that are there. An empty one is as good as none.

    Raises: UsageError for a protocol that we do not speak.
    """
    given = {name: value for name, value in environ.items() if name.startswith("OTEL_") and value}
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    for name, key in _SAME.items():
        if name in given:
            yield name, key, given[name]
    for name, key in _MILLISECONDS.items():
        if name in given:
            yield name, key, f"{given[name]}ms"
    wanted = [
        signal
        for signal, name in _EXPORTERS.items()
        if "otlp" in [word.strip() for word in given.get(name, "otlp").split(",")]
    ]
    for name in _EXPORTERS.values():
        if name in given:
            yield name, "otlp_signals", ",".join(wanted)
            break
    if any("ENDPOINT" in name for name in given):
        for name in (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            *(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL" for signal in wanted),
        ):
            if given.get(name, PROTOCOL) != PROTOCOL:
                raise UsageError(f'{name}: "{given[name]}": only {PROTOCOL} is spoken here')
