"""proxy-engine tunnel: the public names and who serves them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from proxy_engine.cli.client import add_target, connected, items
from proxy_engine.cli.output import moment_text
from proxy_engine.cli.parser import add_common


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("tunnel", help="see the tunnels")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show all tunnels")
    listing.add_argument("--json", action="store_true", help="one JSON array")
    add_target(listing)
    add_common(listing, _list)


def _list(args: argparse.Namespace) -> int:
    with connected(args) as client:
        found = list(items(client, "/tunnels"))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    from proxy_engine.cli.output import table

    table(
        ("name", "kind", "device", "url", "state", "created"),
        [
            (
                tunnel["name"],
                tunnel["kind"],
                tunnel["device"] or "-",
                tunnel["url"],
                "online" if tunnel["is_online"] else "-",
                moment_text(tunnel["created_at"]),
            )
            for tunnel in found
        ],
    )
    return 0
