"""A collector of OTLP over HTTP that keeps what it gets, and answers as it is told."""

from __future__ import annotations

import gzip
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Reply(NamedTuple):
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    rejected: int = 0  # spans or points
    delay: float = 0.0  # seconds


class Collector:
    """What came, newest last; `replies` are for the next POSTs, then `reply` is for all others."""

    def __init__(self, port: int = 0) -> None:
        self.reply = Reply()
        self.replies: deque[Reply] = deque()
        self.posts: list[tuple[str, dict[str, str]]] = []  # path, and fields in lower case
        self.metrics: list[ExportMetricsServiceRequest] = []  # that were taken
        self.traces: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector._take(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, post: BaseHTTPRequestHandler) -> None:
        body = post.rfile.read(int(post.headers["Content-Length"]))
        reply = self.replies.popleft() if self.replies else self.reply
        time.sleep(reply.delay)
        fields = {name.lower(): value for name, value in post.headers.items()}
        if fields.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer = self._answer(post.path, body, reply) if 200 <= reply.status < 300 else b"no"
        self.posts.append((post.path, fields))
        try:
            post.send_response(reply.status)
            for name, value in reply.headers.items():
                post.send_header(name, value)
            post.send_header("Content-Length", str(len(answer)))
            post.end_headers()
            post.wfile.write(answer)
        except OSError:
            post.close_connection = True  # it did not wait

    def _answer(self, path: str, body: bytes, reply: Reply) -> bytes:
        metrics, traces = ExportMetricsServiceResponse(), ExportTraceServiceResponse()
        if reply.rejected:
            metrics.partial_success.rejected_data_points = reply.rejected
            traces.partial_success.rejected_spans = reply.rejected
            traces.partial_success.error_message = "too old"
        if path.endswith("/metrics"):
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
            return metrics.SerializeToString()
        self.traces.append(ExportTraceServiceRequest.FromString(body))
        return traces.SerializeToString()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in list(self.traces)
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def newest(self) -> dict[str, Metric]:
        """The last metrics, by name."""
        (group,) = self.metrics[-1].resource_metrics
        (scope,) = group.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


@contextmanager
def collector() -> Iterator[Collector]:
    found = Collector()
    try:
        yield found
    finally:
        found.close()


def plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def wait(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)
