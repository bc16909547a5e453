"""The options of a tunnel as flags, as the API takes them, and as text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from proxy_engine.values import PROFILES

NO = "none"
OPTIONS = (
    ("allow", "deny", "basic_auth", "request_headers", "response_headers")
    + ("strip_prefix", "host_header", "profile", "server_timing")
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Flags for all options. A list that is given is the whole list."""
    group = parser.add_argument_group(
        "options of the tunnel",
        'What is given counts, whatever the agent wants; with the word "none" not even that.',
    )

    def add(flag: str, metavar: str, text: str, *, repeatable: bool = True) -> None:
        dest = "option_" + flag.strip("-").replace("-", "_")
        if repeatable:
            group.add_argument(
                flag, metavar=metavar, dest=dest, action="append", help=f"{text}; repeatable"
            )
        else:
            group.add_argument(flag, metavar=metavar, dest=dest, help=text)

    add("--allow", "NETWORK", "only visitors from here, such as 192.0.2.0/24")
    add("--deny", "NETWORK", "no visitors from here, even if they are allowed")
    add("--basic-auth", "USER:PASSWORD", "only with a password (better: a file)")
    add("--basic-auth-file", "FILE", "read lines of USER:PASSWORD, - stdin", repeatable=False)
    add("--realm", "TEXT", "what the browser calls it [the tunnel's name]", repeatable=False)
    add(
        "--request-header",
        "'NAME: VALUE'",
        "set a header of requests; '+NAME: VALUE' adds one, 'NAME:' removes it",
    )
    add("--response-header", "'NAME: VALUE'", "the same of responses")
    add("--strip-prefix", "PATH", "take it off paths, such as /api", repeatable=False)
    add("--host-header", "HOST", "the Host that the target sees", repeatable=False)
    group.add_argument(
        "--profile",
        choices=PROFILES,
        dest="option_profile",
        help="what its connections are for: throughput (bulk), latency (dialogues) or both",
    )
    group.add_argument(
        "--server-timing",
        choices=("yes", "no"),
        dest="option_server_timing",
        help="whether responses tell where the time went",
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, as the API takes it. Raises UsageError."""
    from proxy_engine.errors import UsageError
    from proxy_engine.tunnels.option_texts import parse_headers

    options: dict[str, Any] = {}
    for name in ("allow", "deny", "strip_prefix", "host_header"):
        value = getattr(args, f"option_{name}")
        if value is not None:
            options[name] = type(value)() if value in (NO, [NO]) else value
    if args.option_profile is not None:
        options["profile"] = args.option_profile
    if args.option_server_timing is not None:
        options["server_timing"] = args.option_server_timing == "yes"
    users = _users(args)
    if users is not None:
        passwords = [{"name": name, "password": value} for name, value in users.items()]
        options["basic_auth"] = {"users": passwords, "realm": args.option_realm or ""}
    elif args.option_realm is not None:
        raise UsageError("--realm: of which users? give --basic-auth")
    for what in ("request", "response"):
        rules = getattr(args, f"option_{what}_header")
        if rules is not None:
            try:
                headers = parse_headers([] if rules == [NO] else rules)
            except ValueError as error:
                raise UsageError(f"--{what}-header: {error}") from None
            options[f"{what}_headers"] = {
                "remove": headers.remove,
                "set": headers.set,
                "add": headers.add,
            }
    return options


def _users(args: argparse.Namespace) -> dict[str, str] | None:
    from proxy_engine.errors import UsageError, error_text
    from proxy_engine.tunnels.option_texts import parse_users

    items: list[str] = list(args.option_basic_auth or ())
    file = args.option_basic_auth_file
    if not items and file is None:
        return None
    if items == [NO]:
        return {}
    try:
        if file == "-":
            items += [line for line in sys.stdin.read().splitlines() if line]
        elif file is not None:
            with open(file, encoding="utf-8") as stream:
                items += [line for line in stream.read().splitlines() if line]
        return parse_users(items)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--basic-auth-file {file}: {error_text(error)}") from None
    except ValueError as error:
        raise UsageError(f"--basic-auth: {error}") from None


def texts(options: dict[str, Any]) -> dict[str, str]:
    """Those that say something, one line each."""
    import msgspec

    from proxy_engine.tunnels.option_texts import header_texts
    from proxy_engine.tunnels.options import Headers

    found: dict[str, str] = {}
    for name in OPTIONS:
        value = options[name]
        if value is None:
            continue
        if name == "basic_auth":
            users = " ".join(user["name"] for user in value["users"]) or "none"
            value = users + (f' (realm "{value["realm"]}")' if value["realm"] else "")
        elif name.endswith("_headers"):
            value = ", ".join(header_texts(msgspec.convert(value, Headers)))
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list):
            value = " ".join(value)
        found[name] = value or "none"
    return found
