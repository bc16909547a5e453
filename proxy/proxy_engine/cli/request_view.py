"""Requests of the log for people: a line each, all of one, or counts of many."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxy_engine.text import duration_text, escape, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy_engine.storage import Request, RequestSummary

_RED, _YELLOW, _GREEN, _CYAN, _DIM, _RESET = (
    "\x1b[31m",
    "\x1b[33m",
    "\x1b[32m",
    "\x1b[36m",
    "\x1b[2m",
    "\x1b[0m",
)


def line(request: Request, *, colour: bool = False) -> str:
    """One request for people; columns first, what has no fixed width last."""
    moment = time.localtime(request.time_us / 1e6)
    clock = time.strftime("%H:%M:%S", moment) + f".{request.time_us // 1000 % 1000:03d}"
    status = f"{request.status or '---'}"
    if colour:
        clock = f"{_DIM}{clock}{_RESET}"
        status = f"{_colour(request.status)}{status}{_RESET}"
    sizes = f"{size_text(request.bytes_in)}/{size_text(request.bytes_out)}"
    text = (
        f"{clock} {status} {escape(request.method):<7} "
        f"{duration_text(request.total_us / 1e6):>7} {sizes:>17} "
        f"{escape(request.tunnel or '-'):<12} {escape(request.host + request.path)}"
    )
    if request.reason:
        text += f" ({escape(request.reason)})"
    return f"{text} {escape(request.request_id)}".rstrip()


def _colour(status: int) -> str:
    if status == 0 or status >= 500:
        return _RED
    if status >= 400:
        return _YELLOW
    return _CYAN if status >= 300 or status < 200 else _GREEN


def request_lines(request: Request) -> list[str]:
    """All that is known of it, by name; what is not known or does not apply is left out."""
    began_us = request.time_us - request.total_us
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began_us / 1e6))
    first_byte = f"after {_time(request.first_byte_us)}" if request.first_byte_us else ""
    if first_byte:
        first_byte += (
            f": proxy {_time(request.proxy_us)}, link {_time(request.link_us)},"
            f" target {_time(request.target_us)}"
        )
    trace = request.trace_id
    if trace:
        trace += ", sampled" if request.trace_flags & 1 else ", not sampled"
    said = {
        "request": f"{request.method} {request.host}{request.path}",
        "id": request.request_id,
        "number": str(request.id),
        "state": request.state,
        "status": f"{request.status or ''}",
        "reason": request.reason,
        "began": f"{moment}.{began_us % 1_000_000:06d}",
        "took": _time(request.total_us),
        "first byte": first_byte,
        "bytes": f"{size_text(request.bytes_in)} in, {size_text(request.bytes_out)} out",
        "tunnel": request.tunnel or "",
        "device": request.device or "",
        "visitor": request.visitor,
        "trace": trace,
        "parent": request.parent_id,
        "span": request.span_id,
    }
    return [f"{name:<11} {escape(text)}" for name, text in said.items() if text]


def _time(us: int) -> str:
    return duration_text(us / 1e6)


def summary_lines(summary: RequestSummary) -> list[str]:
    sizes = f"{size_text(summary.bytes_in)} in, {size_text(summary.bytes_out)} out"
    more = " (the newest: there are more than could be counted in time)"
    lines = [f"{summary.count} requests, {sizes}" + (more if summary.is_partial else "")]
    if not summary.count:
        return lines
    times = [(f"p{percent}", us) for percent, us in summary.percentiles_us.items()]
    times.append(("max", summary.max_us))
    lines.append(
        "duration  " + "  ".join(f"{name} {duration_text(us / 1e6)}" for name, us in times)
    )
    lines.append("state     " + _counts(summary.states.items()))
    lines.append("status    " + _counts(sorted(summary.statuses.items())))
    lines += [f"{times:>9} {escape(path)}" for path, times in summary.paths]
    return lines


def _counts(items: Iterable[tuple[object, int]]) -> str:
    return "  ".join(f"{name} {times}" for name, times in items if times)
