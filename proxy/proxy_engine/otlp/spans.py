"""Finished requests as spans, by the semantic conventions of OpenTelemetry for HTTP servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as proto

from proxy_engine.otlp.attributes import SCOPE, Value, put
from proxy_engine_core.core import (
    LOG_ABORTED,
    LOG_HTTP10,
    LOG_LOCAL,
    LOG_RETRIED,
    LOG_TCP,
    LOG_TUNNEL,
    LOG_UDP,
    LogRecord,
)

METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY")
)
_HAS_REMOTE, _REMOTE = 0x100, 0x200  # SpanFlags: it is known whether the parent is elsewhere; it is


class SpanEncoder:
    """
    Args:
        redact: a path and query as others may see it.
        tunnel_name, device_name: of the ids in log records.
        scheme: of the address that visitors use.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        redact: Callable[[str], str],
        tunnel_name: Callable[[int], str | None],
        device_name: Callable[[int], str | None],
        scheme: str,
    ) -> None:
        self._resource = resource
        self._redact = redact
        self._tunnel_name = tunnel_name
        self._device_name = device_name
        self._scheme = scheme

    def __call__(self, records: Iterable[LogRecord]) -> bytes:
        """An ExportTraceServiceRequest."""
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add(resource=self._resource)
        scope = group.scope_spans.add(scope=SCOPE)
        for record in records:
            self._fill(scope.spans.add(), record)
        return request.SerializeToString()

    def _fill(self, span: proto.Span, record: LogRecord) -> None:
        is_http = not record.flags & (LOG_TCP | LOG_UDP)
        span.name = record.method if record.method in METHODS or not is_http else "HTTP"
        span.kind = proto.Span.SPAN_KIND_SERVER
        span.trace_id = bytes.fromhex(record.trace_id) or os.urandom(16)
        span.span_id = bytes.fromhex(record.span_id) or os.urandom(8)
        span.flags = record.trace_flags | _HAS_REMOTE
        span.start_time_unix_nano = (record.time_us - record.total_us) * 1000
        span.end_time_unix_nano = record.time_us * 1000
        if record.parent_id:
            span.parent_span_id = bytes.fromhex(record.parent_id)
            span.flags |= _REMOTE
        pairs = self._http(record) if is_http else _other(record)
        put(span.attributes, (*pairs, *self._common(record)))
        problem = _problem(record, is_http)
        if problem:
            span.status.code = proto.Status.STATUS_CODE_ERROR
            put(span.attributes, [("error.type", problem)])

    def _http(self, record: LogRecord) -> Iterator[tuple[str, Value]]:
        if record.method in METHODS:
            yield "http.request.method", record.method
        else:
            yield "http.request.method", "_OTHER"
            yield "http.request.method_original", record.method
        yield "url.scheme", self._scheme
        path, mark, query = self._redact(record.path).partition("?")
        yield "url.path", path
        if mark:
            yield "url.query", query
        if record.status:
            yield "http.response.status_code", record.status
            yield "proxy_engine.answered_by", "proxy" if record.flags & LOG_LOCAL else "target"
        yield "network.protocol.name", "http"
        yield "network.protocol.version", "1.0" if record.flags & LOG_HTTP10 else "1.1"
        yield from _server(record.host)
        yield "http.request.size", record.bytes_in
        yield "http.response.size", record.bytes_out
        if record.flags & LOG_TUNNEL:
            yield "proxy_engine.upgraded", True
        if record.flags & LOG_RETRIED:
            yield "proxy_engine.retried", True

    def _common(self, record: LogRecord) -> Iterator[tuple[str, Value]]:
        yield "client.address", record.visitor
        tunnel, device = self._tunnel_name(record.route), self._device_name(record.device)
        if tunnel is not None:
            yield "proxy_engine.tunnel", tunnel
        if device is not None:
            yield "proxy_engine.device", device
        if record.request_id:
            yield "proxy_engine.request_id", record.request_id
        if record.reason:
            yield "proxy_engine.reason", record.reason
        if record.first_byte_us:
            yield "proxy_engine.time.first_byte", record.first_byte_us / 1e6
            yield "proxy_engine.time.proxy", record.proxy_us / 1e6
            yield "proxy_engine.time.link", record.link_us / 1e6
            yield "proxy_engine.time.target", record.target_us / 1e6


def _other(record: LogRecord) -> Iterator[tuple[str, Value]]:
    yield "network.transport", record.method.lower()
    yield from _server(record.host)
    yield "proxy_engine.received_bytes", record.bytes_in
    yield "proxy_engine.sent_bytes", record.bytes_out


def _problem(record: LogRecord, is_http: bool) -> str:
    """The conventions' error.type; "" for what is the visitor's business: 4xx, and going away."""
    if is_http and record.status >= 500:
        return record.reason or str(record.status)
    if record.flags & LOG_ABORTED:
        return record.reason or "aborted"
    return ""


def _server(host: str) -> Iterator[tuple[str, Value]]:
    """A Host field, or the ":PORT" of a TCP tunnel."""
    name, _, port = host.rpartition(":")
    if port.isascii() and port.isdigit():
        yield "server.port", int(port)
    else:
        name = host
    if name:
        yield "server.address", name.strip("[]")
