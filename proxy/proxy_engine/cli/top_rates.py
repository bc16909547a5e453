"""What two looks at /api/v1/overview make: rates, shares of a core, percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

PERCENTILES = (50, 90, 99)


class TunnelRates(msgspec.Struct, kw_only=True):
    name: str
    kind: str
    device: str | None
    open: int
    requests: float  # a second, as all below but latencies
    bytes_in: float
    bytes_out: float
    client_errors: float
    server_errors: float
    aborted: float
    latency_ms: dict[str, float]  # p50, p90, p99; {}: no request has ended


class WorkerRates(msgspec.Struct, kw_only=True):
    worker: int
    cpu: float  # share of a core
    connections: int
    requests: float
    buffer_bytes: int


class DeviceRates(msgspec.Struct, kw_only=True):
    name: str
    links: int
    up_s: float
    tunnels: int
    open: int
    requests: float
    bytes_in: float
    bytes_out: float


class Rates(msgspec.Struct, kw_only=True):
    """All of it at one moment."""

    at: float
    seconds: float  # between the two looks
    version: str
    status: str
    up_s: float
    links: int
    open: int
    requests: float
    bytes_in: float
    bytes_out: float
    client_errors: float
    server_errors: float
    aborted: float
    unrouted: float
    latency_ms: dict[str, float]
    workers: list[WorkerRates]
    tunnels: list[TunnelRates]
    devices: list[DeviceRates]


def rates(before: Any, after: Any) -> Rates:
    """
    Args:
        before, after: answers of /api/v1/overview. Counters that have fallen began anew.
    """
    if after["started_at"] != before["started_at"]:
        before = {"at": after["started_at"], "workers": [], "tunnels": [], "unrouted": 0}
    seconds = max(after["at"] - before["at"], 0.001)
    old = {each["name"]: each for each in before["tunnels"]}
    bounds = after["bounds_us"]
    buckets = [0] * (len(bounds) + 1)
    tunnels = []
    for each in after["tunnels"]:
        grown = _growth(old.get(each["name"], {}), each)
        durations = [
            count - was
            for count, was in zip(
                each["durations"],
                _durations(old.get(each["name"]), each["durations"]),
                strict=True,
            )
        ]
        buckets = [sum(pair) for pair in zip(buckets, durations, strict=True)]
        tunnels.append(
            TunnelRates(
                name=each["name"],
                kind=each["kind"],
                device=each["device"],
                open=each["open"],
                latency_ms=percentiles(durations, bounds),
                **{name: count / seconds for name, count in grown.items()},
            )
        )
    totals = {
        name: sum(getattr(each, name) for each in tunnels)
        for name in ("open", *COUNTED)
    }  # fmt: skip
    return Rates(
        at=after["at"],
        seconds=seconds,
        version=after["version"],
        status=after["status"],
        up_s=after["at"] - after["started_at"],
        links=after["links"],
        unrouted=max(0, after["unrouted"] - before["unrouted"]) / seconds,
        latency_ms=percentiles(buckets, bounds),
        workers=_workers(before["workers"], after["workers"], seconds),
        tunnels=tunnels,
        devices=_devices(after, tunnels),
        **totals,
    )


COUNTED = ("requests", "bytes_in", "bytes_out", "client_errors", "server_errors", "aborted")


def _growth(before: Any, after: Any) -> dict[str, int]:
    # A tunnel of that name may have been made anew: then all of it is new.
    if any(after[name] < before.get(name, 0) for name in COUNTED):
        before = {}
    return {name: after[name] - before.get(name, 0) for name in COUNTED}


def _durations(before: Any, after: Sequence[int]) -> Sequence[int]:
    if before is None or any(
        old > new for old, new in zip(before["durations"], after, strict=True)
    ):
        return [0] * len(after)
    durations: Sequence[int] = before["durations"]
    return durations


def percentiles(counts: Sequence[int], bounds_us: Sequence[int]) -> dict[str, float]:
    """By buckets, evenly within each; of what is longer than all bounds the last one is said."""
    total = sum(counts)
    if total == 0:
        return {}
    found = {}
    for percent in PERCENTILES:
        wanted, below = total * percent / 100, 0
        for index, count in enumerate(counts):
            if below + count >= wanted and count:
                start = bounds_us[index - 1] if index else 0
                end = bounds_us[min(index, len(bounds_us) - 1)]
                us = start + max(0, end - start) * (wanted - below) / count
                found[f"p{percent}"] = round(us / 1000, 3)
                break
            below += count
    return found


def _workers(before: Any, after: Any, seconds: float) -> list[WorkerRates]:
    old = {each["worker"]: each for each in before}
    return [
        WorkerRates(
            worker=each["worker"],
            cpu=max(0, each["cpu_us"] - old.get(each["worker"], {}).get("cpu_us", 0))
            / (seconds * 1e6),
            connections=each["connections"],
            requests=max(0, each["requests"] - old.get(each["worker"], {}).get("requests", 0))
            / seconds,
            buffer_bytes=each["buffer_bytes"],
        )
        for each in after
    ]


def _devices(after: Any, tunnels: list[TunnelRates]) -> list[DeviceRates]:
    found = []
    for device in after["devices"]:
        ours = [each for each in tunnels if each.device == device["name"]]
        found.append(
            DeviceRates(
                name=device["name"],
                links=device["links"],
                up_s=max(0.0, after["at"] - device["since"]),
                tunnels=len(ours),
                open=sum(each.open for each in ours),
                requests=sum(each.requests for each in ours),
                bytes_in=sum(each.bytes_in for each in ours),
                bytes_out=sum(each.bytes_out for each in ours),
            )
        )
    return found
