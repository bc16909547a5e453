"""The export of one server: what its settings ask for, and what is counted of it."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from proxy_engine import logs
from proxy_engine.errors import UsageError, error_text
from proxy_engine.settings import config
from proxy_engine.settings.otlp import headers

if TYPE_CHECKING:
    import ssl

    from proxy_engine.metrics.collect import Exporter
    from proxy_engine.otlp.metrics_export import MetricsExport
    from proxy_engine.otlp.traces_export import TracesExport
    from proxy_engine.settings.config import Settings

EXTRA = "pip install 'proxy-engine[otlp]'"

_log = logs.get("otlp")


def urls(settings: Settings) -> dict[str, str]:
    """Where what is exported goes, by signal."""
    found = {}
    for signal in settings.otlp_signals:
        url = getattr(settings, f"otlp_{signal}_endpoint")
        if not url and settings.otlp_endpoint:
            url = f"{settings.otlp_endpoint.rstrip('/')}/v1/{signal}"
        if url:
            found[signal] = url
    return found


def check(settings: Settings) -> None:
    """Raises UsageError if what is to be exported can not be: packages, files."""
    if not urls(settings):
        return
    try:
        import opentelemetry.proto.collector.trace.v1.trace_service_pb2  # noqa: F401
    except ImportError:
        raise UsageError(f"otlp_endpoint needs more packages: {EXTRA}") from None
    if settings.otlp_headers_file != "-":
        _headers(settings)
    _context(settings)


def _headers(settings: Settings) -> dict[str, str]:
    try:
        return headers(config.secret(settings, "otlp_headers"))
    except ValueError as error:
        raise UsageError(f"otlp_headers: {error}") from None


def _context(settings: Settings) -> ssl.SSLContext:
    import ssl

    if settings.otlp_key and not settings.otlp_cert:
        raise UsageError("otlp_key needs otlp_cert")
    try:
        context = ssl.create_default_context(cafile=settings.otlp_ca or None)
        if settings.otlp_cert:
            # A passphrase can not be asked for: an empty one is a wrong one.
            context.load_cert_chain(settings.otlp_cert, settings.otlp_key or None, password="")
    except (OSError, ValueError) as error:
        files = " ".join(filter(None, (settings.otlp_ca, settings.otlp_cert, settings.otlp_key)))
        raise UsageError(f"otlp_ca, otlp_cert or otlp_key {files}: {error_text(error)}") from None
    return context


class Otlp:
    """Does nothing until it is started, and then only what the settings ask for."""

    def __init__(self) -> None:
        self._exit = contextlib.AsyncExitStack()
        self._metrics: MetricsExport | None = None
        self._traces: TracesExport | None = None

    async def start(
        self,
        settings: Settings,
        *,
        exporter: Exporter,
        redact: Callable[[str], str],
        tunnel_name: Callable[[int], str | None],
        device_name: Callable[[int], str | None],
        scheme: str,
        started_at: float,
    ) -> None:
        """What the settings ask for, which check() has seen.

        Args:
            redact: a path and query as others may see it; called in another thread.
            tunnel_name, device_name: of the ids in log records; called there too.
            scheme: of the address that visitors use.
            started_at: of the server, seconds since the epoch.
        Raises: UsageError for files that are no good.
        """
        where = urls(settings)
        if not where:
            return
        import aiohttp

        from proxy_engine.otlp.attributes import resource
        from proxy_engine.otlp.delivery import Delivery
        from proxy_engine.otlp.metrics import MetricsEncoder
        from proxy_engine.otlp.metrics_export import MetricsExport
        from proxy_engine.otlp.sampling import sampler
        from proxy_engine.otlp.spans import SpanEncoder
        from proxy_engine.otlp.traces_export import TracesExport

        is_small = settings.otlp_compression == "gzip"
        fields = _headers(settings) | ({"Content-Encoding": "gzip"} if is_small else {})
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=settings.otlp_timeout),
            connector=aiohttp.TCPConnector(ssl=_context(settings)),
        )
        await self._exit.enter_async_context(session)
        about = resource(settings.otlp_service_name, settings.otlp_attributes)
        packed = _smaller if is_small else bytes
        if "metrics" in where:
            self._metrics = MetricsExport(
                exporter,
                MetricsEncoder(about, started_at),
                packed,
                Delivery(session, where["metrics"], fields),
                settings.otlp_interval,
            )
            self._metrics.start()
        if "traces" in where:
            self._traces = TracesExport(
                SpanEncoder(
                    about,
                    redact=redact,
                    tunnel_name=tunnel_name,
                    device_name=device_name,
                    scheme=scheme,
                ),
                packed,
                Delivery(session, where["traces"], fields),
                sampler(settings.otlp_sampler, settings.otlp_sample),
                settings.otlp_queue,
            )
            self._traces.start()
        _log.info("exports to a collector", **where)

    def put(self, batch: bytes) -> None:
        """Packed records of requests that ended (proxy_engine_core.log_batch)."""
        if self._traces is not None:
            self._traces.put(batch)

    def stats(self) -> Mapping[str, int]:
        metrics, traces = self._metrics, self._traces
        parts = [each.delivery for each in (metrics, traces) if each is not None]
        return {
            "otlp_posts": sum(part.taken for part in parts),
            "otlp_posts_failed": sum(part.failed for part in parts),
            "otlp_spans_sent": traces.sent if traces else 0,
            "otlp_spans_dropped": traces.dropped if traces else 0,
            "otlp_points_rejected": metrics.rejected if metrics else 0,
            "otlp_queue_bytes": traces.waiting if traces else 0,
        }

    async def finish_metrics(self) -> None:
        """The last values, while there still is an engine to ask."""
        if self._metrics is not None:
            await self._metrics.close()

    async def close(self) -> None:
        """Send what waits, for a moment; the rest is dropped and counted."""
        if self._traces is not None:
            await self._traces.close()
        await self._exit.aclose()


def _smaller(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)
