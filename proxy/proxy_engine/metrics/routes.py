"""What Engine.route_stats() packs, as rows."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from proxy_engine_core.core import ROUTE_STATS

_ROW = struct.Struct(f"={len(ROUTE_STATS)}Q")


class RouteCounts(NamedTuple):
    """One route id: the fields are those of ROUTE_STATS, with the buckets together."""

    route: int  # 0: requests that found no tunnel
    open: int
    connections: int
    bytes_in: int
    bytes_out: int
    refused: int
    failed: int
    aborted: int
    ended: tuple[int, ...]  # none, 1xx, 2xx, 3xx, 4xx, 5xx
    duration_us: int
    durations: tuple[int, ...]  # by ROUTE_STATS_BOUNDS_US, and longer ones


_ENDED = ROUTE_STATS.index("ended_none")
_DURATION = ROUTE_STATS.index("duration_us")


def route_counts(packed: bytes) -> Iterator[RouteCounts]:
    for row in _ROW.iter_unpack(packed):
        yield RouteCounts._make(
            (*row[:_ENDED], row[_ENDED:_DURATION], row[_DURATION], row[_DURATION + 1 :])
        )
