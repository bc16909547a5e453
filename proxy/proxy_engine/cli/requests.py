"""proxy-engine requests: the request log."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from proxy_engine.cli.client import Client, add_target, connected, segment
from proxy_engine.cli.parser import add_common, count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy_engine.storage import Request

_T = TypeVar("_T")
POLL_INTERVAL = 0.25  # seconds
BATCH = 1000  # rows


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("requests", help="look at the request log")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    tail = actions.add_parser("tail", help="show the last requests")
    _add_filters(tail)
    tail.add_argument("-f", "--follow", action="store_true", help="wait for more, until Ctrl-C")
    tail.add_argument(
        "-n", "--lines", metavar="N", type=count, default=20, help="how many at first [20]"
    )
    tail.add_argument("--json", action="store_true", help="one JSON object a line")
    add_target(tail)
    add_common(tail, _tail)

    found = actions.add_parser("list", help="search the log; the newest last")
    _add_filters(found)
    found.add_argument(
        "-n", "--limit", metavar="N", type=count, default=100, help="the newest N [100]"
    )
    found.add_argument("--json", action="store_true", help="one JSON object a line")
    add_target(found)
    add_common(found, _list)

    show = actions.add_parser("show", help="all that is known of one request")
    show.add_argument("id", metavar="ID", help="its X-Request-Id, or its number in the log")
    show.add_argument("--json", action="store_true", help="as JSON")
    add_target(show)
    add_common(show, _show)

    stats = actions.add_parser("stats", help="counts, percentiles and frequent paths")
    _add_filters(stats)
    stats.add_argument(
        "--paths", metavar="N", type=count, default=10, help="the N most frequent paths [10]"
    )
    stats.add_argument("--json", action="store_true", help="as JSON")
    add_target(stats)
    add_common(stats, _stats)

    export = actions.add_parser("export", help="write what matches to stdout, the newest first")
    _add_filters(export)
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="[jsonl]")
    export.add_argument("-n", "--limit", metavar="N", type=count, help="at most N [all]")
    add_target(export)
    add_common(export, _export)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which requests; all that is given must hold")
    group.add_argument("--device", dest="of_device", metavar="NAME", help="of this device")
    group.add_argument("--tunnel", metavar="NAME", help="of this tunnel")
    group.add_argument("--status", metavar="STATUS", type=_status, help="502, 5xx or 400-499")
    group.add_argument(
        "--state",
        choices=("open", "closed", "unavailable", "timeout", "aborted"),
        help="how it ended; open: it has not",
    )
    group.add_argument("--method", metavar="METHOD", help="GET, or TCP and UDP of such tunnels")
    group.add_argument("--host", metavar="NAME", help="that was asked for")
    group.add_argument("--path", metavar="TEXT", help="text in path or query, in any case")
    group.add_argument("--visitor", metavar="ADDRESS", help="from this address")
    group.add_argument("--reason", metavar="REASON", help="see docs/errors.md")
    group.add_argument("--request-id", metavar="ID", help="with this X-Request-Id")
    group.add_argument("--trace", metavar="ID", type=_trace_id, help="of this trace")
    group.add_argument(
        "--since", metavar="TIME", type=_time, help="an age such as 1h, or 2026-01-31T12:00 (UTC)"
    )
    group.add_argument("--until", metavar="TIME", type=_time, help="the same; before then")
    group.add_argument("--slower", metavar="TIME", type=_milliseconds, help="took at least, 500ms")
    group.add_argument("--faster", metavar="TIME", type=_milliseconds, help="took at most")


def _status(text: str) -> str:
    from proxy_engine.requests.query import parse_status

    _argument(parse_status, text)
    return text


def _time(text: str) -> str:
    """A moment: an age counts from now, for all pages of an answer."""
    from proxy_engine.requests.query import parse_time

    return f"{_argument(parse_time, text):.6f}"


def _trace_id(text: str) -> str:
    from proxy_engine.requests.query import parse_trace_id

    return _argument(parse_trace_id, text)


def _milliseconds(text: str) -> float:
    from proxy_engine.values import parse_duration

    return _argument(parse_duration, text) * 1000


def _argument(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


FILTERS = (
    *("tunnel", "status", "state", "method", "host", "path", "visitor", "reason", "request_id"),
    *("since", "until"),
)


def _filters(args: argparse.Namespace) -> dict[str, Any]:
    """As the API has them."""
    names = {name: getattr(args, name) for name in FILTERS}
    times = {"min_ms": args.slower, "max_ms": args.faster}
    return {**names, **times, "device": args.of_device, "trace_id": args.trace}


def _pages(args: argparse.Namespace, client: Client) -> Iterator[list[Request]]:
    """What matches, the newest first."""
    left: int | None = args.limit
    cursor = None
    while left is None or left > 0:
        size = BATCH if left is None else min(left, BATCH)
        query = {"limit": size, "cursor": cursor, **_filters(args)}
        answer = client.call("GET", "/requests", query=query)
        found = _requests(answer)
        yield found[::-1]
        left = None if left is None else left - len(found)
        cursor = answer["next"]
        if cursor is None:
            return


def _list(args: argparse.Namespace) -> int:
    with connected(args) as client:
        found = [request for page in _pages(args, client) for request in page]
    _print(found[::-1], args.json)
    return 0


def _show(args: argparse.Namespace) -> int:
    import msgspec

    from proxy_engine.cli.request_view import request_lines
    from proxy_engine.storage import Request

    with connected(args) as client:
        answer = client.call("GET", f"/requests/{segment(args.id)}")
    if args.json:
        print(msgspec.json.encode(answer).decode())
    else:
        print("\n".join(request_lines(msgspec.convert(answer, Request))))
    return 0


def _stats(args: argparse.Namespace) -> int:
    import msgspec

    from proxy_engine.cli.request_view import summary_lines
    from proxy_engine.storage import RequestSummary

    with connected(args) as client:
        query = {"paths": args.paths, **_filters(args)}
        answer = client.call("GET", "/requests/stats", query=query)
    if args.json:
        print(msgspec.json.encode(answer).decode())
    else:
        summary = msgspec.convert(answer, RequestSummary, strict=False)
        print("\n".join(summary_lines(summary)))
    return 0


def _export(args: argparse.Namespace) -> int:
    from proxy_engine.requests.export import CSV_HEAD, csv_lines, json_lines

    out = sys.stdout.buffer
    with connected(args) as client:
        if args.format == "csv":
            out.write(CSV_HEAD)
        for page in _pages(args, client):
            out.write(csv_lines(page) if args.format == "csv" else json_lines(page))
    return 0


def _tail(args: argparse.Namespace) -> int:
    try:
        with connected(args) as client:
            _follow(args, client)
    except KeyboardInterrupt:
        if not args.follow:
            raise
    return 0


def _follow(args: argparse.Namespace, client: Client) -> None:
    newest = _requests(client.call("GET", "/requests", query={"limit": 1}))
    last = newest[-1].id if newest else 0
    if args.lines > 0 and last > 0:
        args.limit = args.lines
        found = [request for page in _pages(args, client) for request in page]
        last = max([last, *(request.id for request in found)])
        _print(found[::-1], args.json)
    while args.follow:
        query: dict[str, Any] = {"after": last, "limit": BATCH, **_filters(args)}
        answer = client.call("GET", "/requests", query=query)
        while True:
            found = _requests(answer)
            _print(found, args.json)
            last = max([last, *(request.id for request in found)])
            if answer["next"] is None:
                break
            answer = client.call("GET", "/requests", query={**query, "cursor": answer["next"]})
        time.sleep(POLL_INTERVAL)


def _requests(answer: Any) -> list[Request]:
    import msgspec

    from proxy_engine.storage import Request

    return msgspec.convert(answer["items"], list[Request])


def _print(found: list[Request], as_json: bool) -> None:
    if as_json:
        import msgspec

        lines = [msgspec.json.encode(request).decode() for request in found]
    else:
        from proxy_engine.cli.request_view import line

        colour = sys.stdout.isatty()
        lines = [line(request, colour=colour) for request in found]
    if lines:
        print("\n".join(lines), flush=True)
