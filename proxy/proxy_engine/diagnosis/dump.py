"""What the engine has, asked of its workers: totals, links, streams, buffers, timers.

Workers tell between two turns, in pieces (proxy_engine_core/forward/dump.pxd), so links and
streams are each as they were at some moment of these milliseconds. Links and streams beyond
what was asked for are counted, not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from proxy_engine_core.inspector import CONNECTION_KINDS, dump_rows

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine

PATIENCE = 5.0  # seconds for all workers; they take milliseconds
BLOCK_SIZE_MIN = 4096  # bytes of the smallest class of buffers; each next is twice as large
STREAM_FLAGS = {
    1: "syn_sent", 2: "ack_sent", 4: "ack_received", 8: "fin_sent", 16: "fin_received",
    32: "reset", 64: "unacked",
}  # fmt: skip

Milliseconds = Annotated[int, msgspec.Meta(description="milliseconds")]


class BufferClass(msgspec.Struct, kw_only=True):
    """Blocks of one size."""

    size: Annotated[int, msgspec.Meta(description="bytes; 0: larger than any class")]
    lent: Annotated[int, msgspec.Meta(description="in buffers that hold something")]
    kept: Annotated[int, msgspec.Meta(description="free, waiting for reuse")]


class WorkerDump(msgspec.Struct, kw_only=True):
    """One worker."""

    worker: int
    cpu_us: Annotated[int, msgspec.Meta(description="CPU time of its thread")]
    busy_us: Annotated[int, msgspec.Meta(description="how long its turn lasts; 0: it sleeps")]
    turns: int
    is_draining: bool
    pressure: Annotated[int, msgspec.Meta(description="0 to 3: docs/operations.md, Memory")]
    connections: Annotated[dict[str, int], msgspec.Meta(description="by kind")]
    tls: Annotated[int, msgspec.Meta(description="connections that have it")]
    handshakes: Annotated[int, msgspec.Meta(description="of TLS, under way")]
    requests: Annotated[int, msgspec.Meta(description="between head and last byte")]
    waiting_for_bandwidth: int
    timers: Annotated[int, msgspec.Meta(description="armed")]
    next_timer_ms: int
    links: int
    links_told: int
    streams: int
    streams_told: int
    routes_version: int
    buffers: list[BufferClass]
    buffer_bytes: int
    buffer_bytes_max: int
    buffer_bytes_kept: int
    memory_max: int
    window_extra: Annotated[int, msgspec.Meta(description="credit lent beyond agreed windows")]
    window_extra_max: int
    log_ring_bytes: int
    control_ring_bytes: int
    pipes_kept: int


class StreamDump(msgspec.Struct, kw_only=True):
    """A yamux stream."""

    id: int
    owner: str
    tunnel: str | None
    idle_ms: Annotated[int, msgspec.Meta(description="waiting for reuse; 0: in use")]
    send_window: Annotated[int, msgspec.Meta(description="bytes we may still send")]
    receive_window: Annotated[int, msgspec.Meta(description="bytes the device may still send")]
    window: int
    unconsumed: Annotated[int, msgspec.Meta(description="received, not yet taken by the visitor")]
    ungranted: Annotated[int, msgspec.Meta(description="taken, not yet granted again")]
    visitor_bytes: Annotated[int, msgspec.Meta(description="waiting for the visitor's socket")]
    flags: list[str]


class LinkDump(msgspec.Struct, kw_only=True):
    """A link, with those of its streams that are told."""

    id: Annotated[str, msgspec.Meta(description="hexadecimal")]
    worker: int
    device: str | None
    device_id: int
    peer: str
    carrier: str
    is_tls: bool
    is_stock_peer: bool
    is_congested: bool
    is_draining: bool
    is_closing: bool
    is_spent: bool
    up_ms: Milliseconds
    silent_ms: Annotated[int, msgspec.Meta(description="since anything came in")]
    stalled_ms: Annotated[int, msgspec.Meta(description="something waits, and none was taken")]
    ping_misses: int
    rtt_us: Annotated[int, msgspec.Meta(description="0: not known yet")]
    bytes_in: int
    bytes_out: int
    queued_bytes: Annotated[int, msgspec.Meta(description="what its socket did not take yet")]
    urgent_bytes: int
    control_bytes: int
    tls_bytes: int
    window: Annotated[int, msgspec.Meta(description="agreed for each stream")]
    window_extra: int
    streams: int
    streams_unacked: int
    requests: int
    visitors_waiting: Annotated[int, msgspec.Meta(description="for a stream")]
    direct_idle: int
    direct_busy: int
    direct_wanted: int
    direct_tickets: int
    streams_told: list[StreamDump]


class EngineDump(msgspec.Struct, kw_only=True):
    """Workers and links."""

    workers: list[WorkerDump]
    links: list[LinkDump]
    is_truncated: Annotated[
        bool, msgspec.Meta(description="there are more links or streams than are told: see workers")
    ]


class _Asked:
    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.rows: list[tuple[int, bytes]] = []
        self.done = asyncio.Event()


class Dumps:
    """
    Args:
        tunnels, devices: names by id, of those there are now.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tunnels: Callable[[], Mapping[int, str]],
        devices: Callable[[], Mapping[int, str]],
    ) -> None:
        self._engine = engine
        self._tunnels = tunnels
        self._devices = devices
        self._asked: dict[int, _Asked] = {}
        self._next_query = 1

    def on_event(self, query: int, worker: int, rows: bytes, is_last: bool) -> None:
        """EVENT_DUMP."""
        asked = self._asked.get(query)
        if asked is None:
            return  # nobody waits for it any more
        asked.rows.append((worker, rows))
        asked.workers -= is_last
        if asked.workers == 0:
            asked.done.set()

    async def ask(self, *, links: int, streams: int, device_id: int = 0) -> EngineDump:
        """Raises TimeoutError if a worker does not answer, RuntimeError if the engine has
        stopped.

        Args:
            links, streams: how many to tell of at most, of each worker.
            device_id: whose links; 0: all.
        """
        query, asked = self._next_query, _Asked(self._engine.workers)
        self._next_query += 1
        self._asked[query] = asked
        try:
            self._engine.inspector.dump(query, device=device_id, links=links, streams=streams)
            async with asyncio.timeout(PATIENCE):
                await asked.done.wait()
        finally:
            del self._asked[query]
        return self._told(asked.rows)

    def _told(self, pieces: list[tuple[int, bytes]]) -> EngineDump:
        tunnels, devices = self._tunnels(), self._devices()
        workers: list[WorkerDump] = []
        links: dict[int, LinkDump] = {}
        busy = self._engine.inspector.busy_since_us()
        for worker, packed in pieces:
            for kind, row in dump_rows(packed):
                if kind == "link":
                    links[row["id"]] = _link(worker, row, devices)
                elif kind == "stream" and row["link"] in links:
                    links[row["link"]].streams_told.append(_stream(row, tunnels))
                elif kind == "worker":
                    workers.append(_worker(self._engine, worker, row, busy[worker]))
        return EngineDump(
            workers=sorted(workers, key=lambda each: each.worker),
            links=list(links.values()),
            is_truncated=any(
                each.links > each.links_told or each.streams > each.streams_told for each in workers
            ),
        )


def _worker(engine: Engine, worker: int, row: dict[str, Any], busy_since: int) -> WorkerDump:
    lent, kept = row["blocks_lent"], [*row["blocks_kept"], 0]
    buffers = [
        BufferClass(size=BLOCK_SIZE_MIN << index if index < len(lent) - 1 else 0,
                    lent=lent[index], kept=kept[index])
        for index in range(len(lent))
    ]  # fmt: skip
    row = row | {
        "worker": worker,
        "cpu_us": engine.worker_stats(worker)["cpu_us"],
        "busy_us": max(0, time.monotonic_ns() // 1000 - busy_since) if busy_since else 0,
        "connections": dict(zip(CONNECTION_KINDS, row["connections"], strict=True)),
        "buffers": buffers,
    }
    return msgspec.convert(row, WorkerDump)


def _link(worker: int, row: dict[str, Any], devices: Mapping[int, str]) -> LinkDump:
    row = row | {
        "worker": worker,
        "id": f"{row['id']:x}",
        "device": devices.get(row["device"]),
        "device_id": row["device"],
        "carrier": "websocket" if row["is_websocket"] else "raw",
        "streams_told": [],
    }
    return msgspec.convert(row, LinkDump)


def _stream(row: dict[str, Any], tunnels: Mapping[int, str]) -> StreamDump:
    row = row | {
        "tunnel": tunnels.get(row["route"]),
        "flags": [name for bit, name in STREAM_FLAGS.items() if row["flags"] & bit],
    }
    return msgspec.convert(row, StreamDump)
