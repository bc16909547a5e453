"""proxy-engine audit: what admins did."""

from __future__ import annotations

import argparse
import json
from typing import Any

from proxy_engine.cli.client import add_target, connected, items
from proxy_engine.cli.output import moment_text
from proxy_engine.cli.parser import add_common, count


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("audit", help="see what admins did")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show the last writes by admins")
    listing.add_argument("-n", "--lines", metavar="N", type=count, default=20, help="how many [20]")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    add_target(listing)
    add_common(listing, _list)


def _list(args: argparse.Namespace) -> int:
    from itertools import islice

    from proxy_engine.cli.output import table
    from proxy_engine.text import escape

    with connected(args) as client:
        found = list(
            islice(items(client, "/audit", limit=max(1, min(args.lines, 1000))), args.lines)
        )[::-1]
    if args.json:
        for each in found:
            print(json.dumps(each))
        return 0
    table(
        ("when", "who", "from", "what", "of", "given", "outcome"),
        [
            (
                moment_text(each["at"]),
                each["actor"],
                each["address"] or "-",
                each["action"],
                escape(each["subject"]) or "-",
                escape(each["detail"]) or "-",
                escape(each["outcome"]) or "unknown",
            )
            for each in found
        ],
    )
    return 0
