"""Searches of the request log as people write them: 5xx, 1h, 250 (milliseconds)."""

from __future__ import annotations

import datetime
import re
import time

from proxy_engine.storage.requests import U63_MAX, Request, RequestQuery
from proxy_engine.values import parse_duration

_STATUS = re.compile(r"([1-5])xx|(\d{1,3})(?:-(\d{1,3}))?", re.ASCII | re.IGNORECASE)
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)
_EPOCH = re.compile(r"\d{9,11}(?:\.\d+)?", re.ASCII)


def parse_status(text: str) -> tuple[int, int]:
    """Least and most of "502", "5xx" or "400-499". Raises ValueError."""
    match = _STATUS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is not a status such as 502, 5xx or 400-499')
    if match[1]:
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    return int(match[2]), int(match[3] or match[2])


def parse_trace_id(text: str) -> str:
    """32 hexadecimal digits, in lower case as all are that we know. Raises ValueError."""
    if not _TRACE_ID.fullmatch(text.strip()):
        raise ValueError(f'"{text}" is not a trace id of 32 hexadecimal digits')
    return text.strip().lower()


def parse_time(text: str, now: float | None = None) -> float:
    """Seconds since the epoch, from such a number, ISO 8601 (UTC unless it says another), or
    an age such as 1h. Raises ValueError."""
    text = text.strip()
    if _EPOCH.fullmatch(text):
        return float(text)
    try:
        return (time.time() if now is None else now) - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f'"{text}" is neither a time such as 2026-01-31T12:00 nor an age such as 30m or 1h'
        ) from None


def wanted(
    *,
    status: tuple[int, int] | None = None,
    since: float | None = None,
    until: float | None = None,
    min_ms: float | None = None,
    max_ms: float | None = None,
    **texts: str | None,
) -> RequestQuery:
    """The query; times in seconds since the epoch."""
    return RequestQuery(
        status=status or (0, 65535),
        since_us=0 if since is None else _us(since, 1e6),
        until_us=U63_MAX if until is None else _us(until, 1e6),
        total_us=(
            0 if min_ms is None else _us(min_ms, 1e3),
            U63_MAX if max_ms is None else _us(max_ms, 1e3),
        ),
        **texts,
    )


def matches(request: Request, query: RequestQuery) -> bool:
    """Whether a search would find this request, which is at hand."""
    texts = (
        *("device", "tunnel", "state", "method", "host", "visitor", "reason", "request_id"),
        "trace_id",
    )
    return (
        all(getattr(query, name) in (None, getattr(request, name)) for name in texts)
        and query.status[0] <= request.status <= query.status[1]
        and query.since_us <= request.time_us <= query.until_us
        and query.total_us[0] <= request.total_us <= query.total_us[1]
        and (query.path is None or query.path.lower() in request.path.lower())
    )


def _us(value: float, scale: float) -> int:
    return min(max(int(value * scale), 0), U63_MAX)
