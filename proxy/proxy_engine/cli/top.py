"""proxy-engine top: a running server, live."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.parser import add_authorities, add_common, add_setting, settings
from proxy_engine.errors import EXIT_OK, ProxyEngineError, UsageError

if TYPE_CHECKING:
    from proxy_engine.cli.client import Client
    from proxy_engine.cli.top_rates import Rates
    from proxy_engine.cli.top_view import View

DELAY_LEAST = 0.2  # seconds between two looks
ONCE_LEAST = 0.5


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "top",
        help="watch a running server: workers, tunnels, devices, latency, errors",
        description="Keys: q quits; r, b, o, l, e, n sort by requests, bytes, open ones, latency, "
        "errors, name; d shows devices; p pauses. Where standard output is no terminal it prints "
        "one look and ends.",
    )
    parser.add_argument(
        "-d", "--delay", metavar="TIME", type=_delay, default=2.0, help="between two looks [2s]"
    )
    parser.add_argument("--once", action="store_true", help="print one look and end")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object for each look; with --once, one"
    )
    parser.add_argument(
        "--sort",
        choices=("requests", "bytes", "open", "latency", "errors", "name"),
        default="requests",
        help="what by, to begin with [requests]",
    )
    add_setting(
        parser, "admin_url", flag="--admin", metavar="URL", help="of the server's admin listener"
    )
    add_setting(
        parser, "admin_token_file", metavar="FILE", help="read its admin token from a file, - stdin"
    )
    add_setting(parser, "admin_token", metavar="TOKEN", help="its admin token (better: a file)")
    add_authorities(parser)
    add_common(parser, run)


def _delay(text: str) -> float:
    from proxy_engine.values import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not DELAY_LEAST <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not 200ms to 1h")
    return seconds


def run(args: argparse.Namespace) -> int:
    from proxy_engine.cli.client import Remote
    from proxy_engine.cli.top_view import SORTS, View

    chosen = settings(args)
    if not chosen.admin_url:
        raise UsageError("which server? give --admin URL, such as http://127.0.0.1:8081")
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    client = Remote(chosen)
    view = View(chosen.admin_url, colour=is_terminal and not args.once)
    view.sort = next(key for key, (name, _) in SORTS.items() if name == args.sort)
    try:
        if args.json:
            _stream(client, args.delay, is_one=args.once)
        elif args.once or not is_terminal:
            _once(client, view, args.delay)
        else:
            _watch(client, view, args.delay)
    except KeyboardInterrupt:
        pass
    finally:
        client.close()
    return EXIT_OK


def _look(client: Client) -> Any:
    return client.call("GET", "/overview")


def _two_looks(client: Client, delay: float) -> tuple[Any, Rates]:
    from proxy_engine.cli.top_rates import rates

    first = _look(client)
    time.sleep(max(ONCE_LEAST, delay))
    second = _look(client)
    return second, rates(first, second)


def _once(client: Client, view: View, delay: float) -> None:
    from proxy_engine.cli.top_view import PLAIN_HEIGHT, PLAIN_WIDTH

    _, found = _two_looks(client, delay)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    print("\n".join(view.lines(found, "", width, PLAIN_HEIGHT, keys=False)))


def _stream(client: Client, delay: float, *, is_one: bool) -> None:
    import msgspec

    from proxy_engine.cli.top_rates import rates

    last, found = _two_looks(client, delay)
    while True:
        print(msgspec.json.encode(found).decode(), flush=True)
        if is_one:
            return
        time.sleep(delay)
        now = _look(client)
        last, found = now, rates(last, now)


def _watch(client: Client, view: View, delay: float) -> None:
    from proxy_engine.cli.screen import Screen

    with Screen() as screen:
        watcher = Watcher(client, view)
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                watcher.look()
                # The first rates soon, then at leisure.
                due = time.monotonic() + (delay if watcher.found else min(delay, ONCE_LEAST))
            screen.draw(view.lines(watcher.found, watcher.trouble, *screen.size()))
            key = screen.key(due - time.monotonic())
            if key and not view.press(key):
                return


class Watcher:
    """The last rates of a server that may come and go."""

    def __init__(self, client: Client, view: View) -> None:
        self.found: Rates | None = None
        self.trouble = ""
        self._client = client
        self._view = view
        self._last: Any = None

    def look(self) -> None:
        """Raises ApiError for what asking again will not mend."""
        from proxy_engine.cli.client import ApiError
        from proxy_engine.cli.top_rates import rates

        if self._view.is_paused:
            return
        try:
            now = _look(self._client)
        except ApiError as error:
            if error.status in (401, 403):
                raise
            self.trouble = str(error)
            return
        except ProxyEngineError as error:
            self.trouble = str(error)
            return
        self.trouble = ""
        if self._last is not None:
            self.found = rates(self._last, now)
        self._last = now
