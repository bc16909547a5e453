"""proxy-engine demo: a server, an agent and a service in one process, and a self-check."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("demo", help="try everything on this machine, nothing to set up")
    parser.add_argument(
        "--once", action="store_true", help="end after the self-check, also on a terminal"
    )
    parser.set_defaults(function=run)


def run(args: argparse.Namespace) -> int:
    from proxy_engine.cli.output import process
    from proxy_engine.demo.scene import play
    from proxy_engine.runner import run_async

    with process("text", "warning"):  # the table is what was asked for
        return run_async(play(stay=not args.once))
