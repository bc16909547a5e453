"""The first two tables of the report: us beside others in one look, and us beside our budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.parts.samples import Sample, figure
from benchmarks.report import svg
from benchmarks.report.losses import Cause, cause_of
from benchmarks.targets import load

BUDGET = "budget"  # stands for whom we lose to, in causes.toml


class Row(NamedTuple):
    what: str
    scenario: str
    figure: str


ROWS = (
    Row("requests/s, 64 clients", "peers-http-1k-c64", "rate"),
    Row("CPU us a request, 1 client", "http-1k-c1", "cost"),
    Row("CPU us a request, 8 clients", "http-1k-c8", "cost"),
    Row("CPU us a request, 64 clients", "peers-http-1k-c64", "cost"),
    Row("CPU us a request, 512 clients", "http-1k-c512", "cost"),
    Row("CPU us a request, 8,000 clients", "http-1k-c8000", "cost"),
    Row("CPU us a request, 64 clients, a new connection each", "http-new-c64", "cost"),
    Row("CPU us a request, 64 clients over TLS 1.3", "tls-c64", "cost"),
    Row("p50 us, 1 client", "http-1k-c1", "p50_us"),
    Row("p99 us, 1 client", "http-1k-c1", "p99_us"),
    Row("p50 us, 64 clients", "peers-http-1k-c64", "p50_us"),
    Row("p99 us, 64 clients", "peers-http-1k-c64", "p99_us"),
    Row("CPU s a GB, responses of 64 KiB", "http-64k-c64", "cost"),
    Row("CPU s a GB, uploads of 64 KiB", "upload-64k-c64", "cost"),
    Row("CPU s a GB, TCP from the visitor", "peers-tcp-up", "cost"),
    Row("CPU us an event, 1,000 listeners", "sse-c1000", "cost"),
    Row("CPU us a WebSocket message", "websocket-c32", "cost"),
    Row("p50 us, 64 B there and back", "pingpong", "p50_us"),
    Row("KiB of an idle visitor", "idle-visitors", "kib_a_connection"),
    Row("MiB of both processes, 64 clients", "peers-http-1k-c64", "pss_mib"),
)
# Heading -> whose figures stand below it: of several the best, of ours what it is as it comes.
COLUMNS = {
    "proxy-engine": ("proxy-engine", "proxy-engine-direct"),
    "two nginx": ("nginx-chain",),
    "two HAProxy": ("haproxy-chain",),
    "two bare relays": ("relay-chain", "relay-splice"),
    "rathole": ("rathole", "rathole-w1"),
    "bore": ("bore", "bore-w1"),
}


def glance(samples: Sequence[Sample]) -> list[list[str]]:
    """Rows of cells, the best of each row in bold; without columns that nobody has."""
    names = [
        name
        for name, subjects in COLUMNS.items()
        if any(each.subject in subjects for each in samples)
    ]
    made = [["", *names]]
    for row in ROWS:
        values: list[float | None] = []
        is_more = row.figure == "rate"
        for name in names:
            found = [
                spread.median
                for subject in COLUMNS[name]
                if (spread := figure(samples, row.scenario, subject, row.figure)) is not None
            ]
            values.append(None if not found else max(found) if is_more else min(found))
        there = [value for value in values if value is not None]
        if len(there) < 2 or values[0] is None:
            continue
        best = max(there) if is_more else min(there)
        cells = ["" if value is None else svg.number(value) for value in values]
        made.append([row.what, *(
            f"**{cell}**" if value == best else cell
            for cell, value in zip(cells, values, strict=True)
        )])  # fmt: skip
    return made


def budgets(samples: Sequence[Sample], causes: Sequence[Cause]) -> list[list[str]]:
    """A row for each target that these samples say something about, the missed first."""
    missed: list[list[str]] = []
    met: list[list[str]] = []
    for target in load():
        attempt = target.attempt(samples) if target.is_measured else None
        if attempt is None:
            continue
        is_met = not target.is_worse(attempt.value, target.budget)
        sign = "≥" if target.more else "≤"
        why = "" if is_met else cause_of(causes, target.scenario, target.name, BUDGET)
        (met if is_met else missed).append([
            target.what, f"{sign}\u00a0{target.budget:,.4g}", svg.number(attempt.value),
            "met" if is_met else "**missed**", why,
        ])  # fmt: skip
    return [*missed, *met]
