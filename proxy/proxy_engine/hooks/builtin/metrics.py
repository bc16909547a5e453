"""Requests, errors, durations and bytes of each tunnel, counted from what hooks are told.

For programs that embed a server, and for a node exporter that reads a file: the server's own
/metrics is made of the engine's counters and needs no hook.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from proxy_engine.hooks.events import (
    DevicePresence,
    Failure,
    Request,
    ServerEvent,
    TunnelData,
    TunnelPresence,
)
from proxy_engine.hooks.hook import Hook

# Upper ends of the classes of durations, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OTHERS = "_others"  # tunnels beyond tunnels_max
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class TunnelMetrics:
    """Counts of one tunnel since the hook was made."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}  # by class of status: "2xx"; "none": nothing was sent
        self.failures: dict[str, int] = {}  # by reason
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.bytes_in = 0
        self.bytes_out = 0


class Metrics(Hook):
    """Counts by tunnel, for programs that embed the server, or as a file that a node exporter
    reads.

    Args:
        path: a file that is written anew with each on_data, as Prometheus reads it; "": none.
        tunnels_max: tunnels that are counted one by one; those beyond are one together.
    """

    order = 1000

    def __init__(self, *, path: str = "", tunnels_max: int = 1000) -> None:
        self.tunnels: dict[str, TunnelMetrics] = {}
        self.devices_online = 0
        self.tunnels_online = 0
        self.failures = 0  # of hooks and store
        self._path = Path(path) if path else None
        self._tunnels_max = tunnels_max

    def of(self, tunnel: str) -> TunnelMetrics:
        """The counts of a tunnel; "": of requests that found none."""
        found = self.tunnels.get(tunnel)
        if found is None:
            if len(self.tunnels) >= self._tunnels_max:
                tunnel = OTHERS
            found = self.tunnels.setdefault(tunnel, TunnelMetrics())
        return found

    def on_device_online(self, event: DevicePresence) -> None:
        self.devices_online += 1

    def on_device_offline(self, event: DevicePresence) -> None:
        self.devices_online -= 1

    def on_tunnel_online(self, event: TunnelPresence) -> None:
        self.tunnels_online += 1

    def on_tunnel_offline(self, event: TunnelPresence) -> None:
        self.tunnels_online -= 1

    def on_request(self, requests: Sequence[Request]) -> None:
        times = self.sample  # each stands for this many
        for request in requests:
            counts = self.of(request.tunnel or "")
            status = f"{request.status // 100}xx" if request.status else "none"
            counts.requests[status] = counts.requests.get(status, 0) + times
            if request.reason:
                counts.failures[request.reason] = counts.failures.get(request.reason, 0) + times
            counts.seconds += request.seconds * times
            counts.buckets[bisect_left(BUCKETS, request.seconds)] += times

    def on_data(self, data: Sequence[TunnelData]) -> None:
        for each in data:
            counts = self.of(each.tunnel)
            counts.bytes_in += each.bytes_in
            counts.bytes_out += each.bytes_out
        self._write()

    def on_error(self, failure: Failure) -> None:
        self.failures += 1

    def on_server_stop(self, event: ServerEvent) -> None:
        self._write()

    def stats(self) -> Mapping[str, int]:
        return {
            "devices_online": self.devices_online,
            "failures": self.failures,
            "tunnels": len(self.tunnels),
            "tunnels_online": self.tunnels_online,
        }

    def text(self) -> str:
        """All of it, in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        tunnels = {name.translate(_ESCAPES): each for name, each in list(self.tunnels.items())}
        yield "# TYPE proxy_engine_hook_devices_online gauge"
        yield f"proxy_engine_hook_devices_online {self.devices_online}"
        yield "# TYPE proxy_engine_hook_tunnels_online gauge"
        yield f"proxy_engine_hook_tunnels_online {self.tunnels_online}"
        yield "# TYPE proxy_engine_hook_failures_total counter"
        yield f"proxy_engine_hook_failures_total {self.failures}"
        name = "proxy_engine_hook_requests_total"
        yield f"# TYPE {name} counter"
        for tunnel, counts in tunnels.items():
            for status, count in counts.requests.items():
                yield f'{name}{{tunnel="{tunnel}",status="{status}"}} {count}'
        name = "proxy_engine_hook_request_failures_total"
        yield f"# TYPE {name} counter"
        for tunnel, counts in tunnels.items():
            for reason, count in counts.failures.items():
                yield f'{name}{{tunnel="{tunnel}",reason="{reason}"}} {count}'
        name = "proxy_engine_hook_bytes_total"
        yield f"# TYPE {name} counter"
        for tunnel, counts in tunnels.items():
            yield f'{name}{{tunnel="{tunnel}",direction="in"}} {counts.bytes_in}'
            yield f'{name}{{tunnel="{tunnel}",direction="out"}} {counts.bytes_out}'
        name = "proxy_engine_hook_request_seconds"
        yield f"# TYPE {name} histogram"
        for tunnel, counts in tunnels.items():
            total = 0
            for end, count in zip((*BUCKETS, "+Inf"), counts.buckets, strict=True):
                total += count
                yield f'{name}_bucket{{tunnel="{tunnel}",le="{end}"}} {total}'
            yield f'{name}_sum{{tunnel="{tunnel}"}} {counts.seconds:.6f}'
            yield f'{name}_count{{tunnel="{tunnel}"}} {total}'

    def _write(self) -> None:
        if self._path is None:
            return
        # Who reads meanwhile has the old file or the new one, never half of one.
        unfinished = self._path.with_name(f".{self._path.name}.new")
        unfinished.write_text(self.text(), encoding="utf-8")
        os.replace(unfinished, self._path)
