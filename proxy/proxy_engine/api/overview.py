"""/api/v1/overview: what is counted now, in one piece, for who draws rates of it."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec

import proxy_engine
from proxy_engine.api.context import Service
from proxy_engine.api.health import status_of
from proxy_engine.api.routes import Call, Routes
from proxy_engine.metrics.routes import RouteCounts, route_counts
from proxy_engine_core.core import ROUTE_STATS_BOUNDS_US

routes = Routes("overview", "What is counted now, by worker, tunnel and device.")


class WorkerNow(msgspec.Struct, kw_only=True):
    """A worker."""

    worker: int
    cpu_us: Annotated[int, msgspec.Meta(description="of its thread, since the start")]
    connections: int
    requests: int
    buffer_bytes: int


class TunnelNow(msgspec.Struct, kw_only=True):
    """A tunnel, since it was made or the server has started."""

    name: str
    kind: str
    device: Annotated[str | None, msgspec.Meta(description="null: it is offline")]
    open: Annotated[int, msgspec.Meta(description="requests and connections under way")]
    requests: Annotated[int, msgspec.Meta(description="that have ended, connections too")]
    bytes_in: Annotated[int, msgspec.Meta(description="from visitors")]
    bytes_out: Annotated[int, msgspec.Meta(description="to visitors")]
    refused: Annotated[int, msgspec.Meta(description="answered by the proxy itself, below 500")]
    client_errors: Annotated[int, msgspec.Meta(description="4xx")]
    server_errors: Annotated[int, msgspec.Meta(description="5xx")]
    aborted: int
    durations: Annotated[
        list[int], msgspec.Meta(description="requests by `bounds_us`; the last: longer")
    ]


class DeviceNow(msgspec.Struct, kw_only=True):
    """A device that is online."""

    name: str
    links: int
    since: Annotated[float, msgspec.Meta(description="its oldest link, seconds since the epoch")]


class Overview(msgspec.Struct, kw_only=True):
    """The counters are never reset but by a restart: a fall is one."""

    at: Annotated[float, msgspec.Meta(description="seconds since the epoch")]
    started_at: float
    version: str
    status: str
    links: int
    workers: list[WorkerNow]
    devices: list[DeviceNow]
    tunnels: Annotated[
        list[TunnelNow], msgspec.Meta(description="those that have had a visitor, or are online")
    ]
    unrouted: Annotated[int, msgspec.Meta(description="requests that found no tunnel")]
    bounds_us: list[int]


@routes.get("/api/v1/overview")
async def read_overview(call: Call) -> Overview:
    """What is counted now.

    Workers, tunnels and devices with their counters, and the moment they are of: two of these make
    rates.
    """
    service = call.service
    engine = service.engine
    status, _ = await status_of(service)
    devices = _devices(service)
    counts = {each.route: each for each in route_counts(engine.route_stats())}
    return Overview(
        at=time.time(),
        started_at=service.started_at,
        version=proxy_engine.__version__,
        status=status,
        links=len(service.links),
        workers=[_worker(index, engine.worker_stats(index)) for index in range(engine.workers)],
        devices=list(devices.values()),
        tunnels=_tunnels(service, counts, devices),
        unrouted=sum(counts[0].ended) if 0 in counts else 0,
        bounds_us=list(ROUTE_STATS_BOUNDS_US),
    )


def _worker(index: int, stats: dict[str, int]) -> WorkerNow:
    names = ("cpu_us", "connections", "requests", "buffer_bytes")
    return WorkerNow(worker=index, **{name: stats[name] for name in names})


def _devices(service: Service) -> dict[int, DeviceNow]:
    found: dict[int, DeviceNow] = {}
    for link in service.links:
        device = found.setdefault(
            link.device_id, DeviceNow(name=link.device, links=0, since=link.since)
        )
        device.links += 1
        device.since = min(device.since, link.since)
    return found


def _tunnels(
    service: Service, counts: dict[int, RouteCounts], devices: dict[int, DeviceNow]
) -> list[TunnelNow]:
    found = []
    for tunnel in service.table:
        device = devices.get(tunnel.device_id)
        row = counts.get(tunnel.id)
        if row is None or (device is None and not row.open and not any(row.ended)):
            continue
        found.append(
            TunnelNow(
                name=tunnel.name,
                kind=tunnel.kind,
                device=device.name if device else None,
                open=row.open,
                requests=sum(row.ended),
                bytes_in=row.bytes_in,
                bytes_out=row.bytes_out,
                refused=row.refused,
                client_errors=row.ended[4],
                server_errors=row.ended[5],
                aborted=row.aborted,
                durations=list(row.durations),
            )
        )
    return found
