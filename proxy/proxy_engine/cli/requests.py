"""proxy-engine requests: the request log."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.client import Client, add_target, connected
from proxy_engine.cli.parser import add_common, count

if TYPE_CHECKING:
    from proxy_engine.storage import Request

POLL_INTERVAL = 0.25  # seconds
BATCH = 1000  # rows
_RED, _YELLOW, _GREEN, _CYAN, _DIM, _RESET = (
    "\x1b[31m",
    "\x1b[33m",
    "\x1b[32m",
    "\x1b[36m",
    "\x1b[2m",
    "\x1b[0m",
)


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("requests", help="look at the request log")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    tail = actions.add_parser("tail", help="show the last requests")
    tail.add_argument("-f", "--follow", action="store_true", help="wait for more, until Ctrl-C")
    tail.add_argument(
        "-n", "--lines", metavar="N", type=count, default=20, help="how many at first [20]"
    )
    tail.add_argument("--json", action="store_true", help="one JSON object a line")
    add_target(tail)
    add_common(tail, _tail)


def _tail(args: argparse.Namespace) -> int:
    try:
        with connected(args) as client:
            _follow(args, client)
    except KeyboardInterrupt:
        if not args.follow:
            raise
    return 0


def _follow(args: argparse.Namespace, client: Client) -> None:
    found = _read(client, limit=1)
    last = found[-1].id if found else 0
    if args.lines > 0 and last > 0:
        last = max(0, last - args.lines)  # ids follow each other
        while found := _read(client, after=last, limit=BATCH):
            last = found[-1].id
            _print(found, args.json)
            if len(found) < BATCH:
                break
    while args.follow:
        found = _read(client, after=last, limit=BATCH)
        if found:
            last = found[-1].id
            _print(found, args.json)
        if len(found) < BATCH:
            time.sleep(POLL_INTERVAL)


def _read(client: Client, **query: int) -> list[Request]:
    import msgspec

    from proxy_engine.storage import Request

    return msgspec.convert(client.call("GET", "/requests", query=query)["items"], list[Request])


def _print(found: list[Request], as_json: bool) -> None:
    if as_json:
        import msgspec

        lines = [msgspec.json.encode(request).decode() for request in found]
    else:
        colour = sys.stdout.isatty()
        lines = [line(request, colour=colour) for request in found]
    if lines:
        print("\n".join(lines), flush=True)


def line(request: Request, *, colour: bool = False) -> str:
    """One request for people; columns first, what has no fixed width last."""
    from proxy_engine.text import duration_text, escape, size_text

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
