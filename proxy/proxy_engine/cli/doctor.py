"""proxy-engine doctor: whether settings and machine are fit, and what to do if not."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.parser import (
    add_common,
    add_servers,
    add_setting,
    add_store,
    add_trust,
    loaded,
)
from proxy_engine.errors import EXIT_FAILURE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from proxy_engine.doctor.finding import Finding

MARKS = {"ok": "ok", "warning": "WARNING", "error": "ERROR", "skipped": "-"}
COLOURS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "skipped": "\x1b[2m"}
RESET = "\x1b[0m"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "doctor",
        help="check settings and machine, and say what to do",
        description="Checks the settings and the machine they are for. Changes nothing. Ends "
        "with 1 if something is wrong that keeps it from working.",
    )
    parser.add_argument(
        "--role",
        choices=("server", "agent"),
        help="whose settings [an agent's, if a server is given]",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="only what is not well")
    add_store(parser)
    add_setting(parser, "domain", metavar="NAME", help="of a server [localhost]")
    add_setting(parser, "listen", metavar="HOST:PORT", action="append", help="of a server")
    add_servers(parser)
    add_trust(parser)
    add_setting(parser, "token_file", metavar="FILE", help="of an agent's token")
    add_common(parser, run)


def run(args: argparse.Namespace) -> int:
    from proxy_engine.doctor.finding import error, has_errors

    role = args.role
    try:
        chosen = loaded(args, standard=True).settings
        role = role or ("agent" if chosen.server else "server")
        found = findings(chosen, role)
    except UsageError as problem:
        role = role or "server"
        found = [error("config", str(problem), "proxy-engine config validate")]
    if args.json:
        import msgspec

        answer = {"role": role, "is_well": not has_errors(found), "findings": found}
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    else:
        shown = [x for x in found if not args.quiet or x.status in ("warning", "error")]
        print("\n".join(lines(shown, colour=sys.stdout.isatty())))
    return EXIT_FAILURE if has_errors(found) else EXIT_OK


def findings(chosen: Any, role: str) -> list[Finding]:
    if role == "agent":
        from proxy_engine.doctor import agent

        return list(agent.check(chosen))
    from proxy_engine.doctor import server

    return list(server.check(chosen))


def lines(found: list[Finding], *, colour: bool) -> list[str]:
    from proxy_engine.text import escape, scrub

    width = max((len(each.check) for each in found), default=0)
    shown = []
    for each in found:
        mark = f"{MARKS[each.status]:<7}"
        if colour:
            mark = f"{COLOURS[each.status]}{mark}{RESET}"
        shown.append(f"{mark}  {each.check:<{width}}  {scrub(escape(each.text))}")
        if each.advice:
            shown.append(f"{'':<9}{'':<{width}}  -> {scrub(escape(each.advice))}")
    counts = {status: sum(x.status == status for x in found) for status in ("error", "warning")}
    shown.append(f"{counts['error']} errors, {counts['warning']} warnings")
    return shown
