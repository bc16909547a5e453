"""A search, as the engine's filter of packed records takes it."""

from __future__ import annotations

from collections.abc import Sequence

from proxy_engine.storage.requests import U63_MAX, RequestQuery
from proxy_engine_core.log_index import LogFilter


def packed_filter(
    query: RequestQuery, *, devices: Sequence[int] | None, tunnels: Sequence[int] | None
) -> LogFilter:
    """Args:
    devices, tunnels: the ids that the names of the query stand for; None: any.
    """
    return LogFilter(
        devices=devices,
        tunnels=tunnels,
        status=query.status,
        state=query.state,
        since_us=query.since_us,
        until_us=query.until_us,
        total_us=query.total_us if query.total_us != (0, U63_MAX) else (0, 2**64 - 1),
        request_id=query.request_id,
        visitor=query.visitor,
        method=query.method,
        host=query.host,
        path=query.path,
        reason=query.reason,
        trace_id=query.trace_id,
    )
