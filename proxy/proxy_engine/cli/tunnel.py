"""proxy-engine tunnel: the public names, who serves them, and what is to happen there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from proxy_engine.cli.client import ApiError, Client, add_target, connected, items, segment
from proxy_engine.cli.output import moment_text
from proxy_engine.cli.parser import add_common
from proxy_engine.cli.tunnel_options import OPTIONS, add_options

_Function = Callable[[argparse.Namespace], int]


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("tunnel", help="see, make, change and disable tunnels")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    def add(name: str, text: str, function: _Function, to: Any = actions) -> Any:
        action = to.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        if name != "list":
            action.add_argument("name", metavar="NAME", help="of the tunnel")
        add_target(action)
        add_common(action, function)
        return action

    add("list", "show all tunnels", _list).add_argument(
        "--json", action="store_true", help="one JSON array"
    )
    add("show", "show one tunnel and its options", _show).add_argument(
        "--json", action="store_true", help="one JSON object"
    )
    create = add("create", "make a tunnel before its device registers it", _create)
    create.add_argument(
        "--device", dest="of_device", metavar="NAME", required=True, help="whose it is"
    )
    create.add_argument("--kind", choices=("http", "tcp", "udp"), default="http", help="[http]")
    create.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="the public port of a TCP or UDP tunnel [none: private, TCP]",
    )
    create.add_argument(
        "--domain", dest="new_domains", metavar="DOMAIN", action="append", default=[],
        help="a custom domain; repeatable",
    )  # fmt: skip
    create.add_argument("--disabled", action="store_true", help="let nobody in yet")
    add_options(create)
    change = add("set", "change options; live traffic follows at once", _set)
    add_options(change)
    change.add_argument(
        "--unset", metavar="OPTION", action="append", default=[], choices=OPTIONS,
        type=lambda text: text.replace("-", "_"),
        help=f"take an option back, so that the agent's counts: {', '.join(OPTIONS)}; repeatable",
    )  # fmt: skip
    target = add("target", "have the agent lead a tunnel somewhere else", _target)
    target.add_argument("target", metavar="HOST:PORT", nargs="?", help="where to")
    target.add_argument("--own", action="store_true", help="where the agent's own settings say")
    add("disable", "let nobody in; it stays the device's", _disable)
    add("enable", "let visitors in again", _enable)
    maintenance = actions.add_parser("maintenance", help="show visitors a page instead")
    states = maintenance.add_subparsers(
        title="states", dest="state", metavar="STATE", required=True
    )
    on = add("on", "show visitors a page instead, with the status 503", _maintenance_on, states)
    on.add_argument("--page", metavar="FILE", help="the page, - stdin [one of our own]")
    on.add_argument("--kind", choices=("html", "json", "text"), default="html", help="[html]")
    on.add_argument("--retry-after", metavar="TIME", default="5m", help="when to come back [5m]")
    add("off", "let visitors through again", _maintenance_off, states)
    domain = actions.add_parser("domain", help="give a tunnel custom domains, or take them away")
    changes = domain.add_subparsers(title="changes", dest="change", metavar="CHANGE", required=True)
    for name, text, function in (
        ("add", "such as www.example.com, or *.example.com", _add_domain),
        ("remove", "take a custom domain away", _remove_domain),
    ):
        change = add(name, text, function, changes)
        change.add_argument(
            "domain_name", metavar="DOMAIN", help="such as www.example.com or *.example.com"
        )
    add("delete", "delete a tunnel, its options and its domains", _delete)


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
                _state(tunnel),
                moment_text(tunnel["created_at"]),
            )
            for tunnel in found
        ],
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    with connected(args) as client:
        tunnel = _ask(client, "GET", args.name)
    if args.json:
        print(json.dumps(tunnel, indent=2))
        return 0
    from proxy_engine.cli.tunnel_options import texts
    from proxy_engine.text import escape

    agents, operators = texts(tunnel["agent_options"]), texts(tunnel["options"])
    rows = {
        "name": tunnel["name"],
        "kind": tunnel["kind"],
        "url": tunnel["url"],
        "domains": " ".join(
            [*tunnel["domains"], *(f"{name} (agent)" for name in tunnel["agent_domains"])]
        ),
        "device": tunnel["device"],
        "state": _state(tunnel),
        "target": tunnel["target"] or "the agent's own",
        "created": moment_text(tunnel["created_at"]),
        "changed": moment_text(tunnel["updated_at"]),
        **{name: operators.get(name, f"{agents.get(name)} (agent)")
           for name in OPTIONS if name in operators or name in agents},
    }  # fmt: skip
    for name, value in rows.items():
        print(f"{name.replace('_', ' ') + ':':<17} {escape(str(value)) if value else '-'}")
    return 0


def _create(args: argparse.Namespace) -> int:
    from proxy_engine.cli.tunnel_options import given

    body = {
        "name": args.name,
        "device": args.of_device,
        "kind": args.kind,
        "port": args.port,
        "domains": args.new_domains,
        "is_enabled": not args.disabled,
        "options": given(args),
    }
    with connected(args) as client:
        print(client.call("POST", "/tunnels", body=body)["url"])
    return 0


def _set(args: argparse.Namespace) -> int:
    from proxy_engine.cli.tunnel_options import given
    from proxy_engine.errors import UsageError

    options = given(args)
    for name in args.unset:
        if name in options:
            raise UsageError(f"--unset {name}: it is set at the same time")
        options[name] = None
    if not options:
        raise UsageError("set what? give an option, such as --allow NETWORK (see --help)")
    return _change(args, options=options)


def _target(args: argparse.Namespace) -> int:
    from proxy_engine.errors import UsageError

    if (args.target is None) != args.own:
        raise UsageError("where to? give HOST:PORT or --own")
    with connected(args) as client:
        _ask(client, "PUT", args.name, "/target", body={"target": args.target})
    return 0


def _disable(args: argparse.Namespace) -> int:
    return _change(args, is_enabled=False)


def _enable(args: argparse.Namespace) -> int:
    return _change(args, is_enabled=True)


def _maintenance_on(args: argparse.Namespace) -> int:
    import sys

    from proxy_engine.errors import UsageError, error_text
    from proxy_engine.values import parse_duration

    page = ""
    try:
        if args.page == "-":
            page = sys.stdin.read()
        elif args.page is not None:
            with open(args.page, encoding="utf-8") as stream:
                page = stream.read()
        seconds = int(parse_duration(args.retry_after))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--page {args.page}: {error_text(error)}") from None
    except ValueError as error:
        raise UsageError(f"--retry-after: {error}") from None
    return _change(args, maintenance={"page": page, "kind": args.kind, "retry_after": seconds})


def _maintenance_off(args: argparse.Namespace) -> int:
    return _change(args, maintenance=None)


def _add_domain(args: argparse.Namespace) -> int:
    return _domain(args, "PUT")


def _remove_domain(args: argparse.Namespace) -> int:
    return _domain(args, "DELETE")


def _domain(args: argparse.Namespace, method: str) -> int:
    with connected(args) as client:
        _ask(client, method, args.name, f"/domains/{segment(args.domain_name)}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    with connected(args) as client:
        _ask(client, "DELETE", args.name)
    return 0


def _change(args: argparse.Namespace, **changes: Any) -> int:
    with connected(args) as client:
        _ask(client, "PATCH", args.name, body=changes)
    return 0


def _ask(client: Client, method: str, name: str, below: str = "", *, body: Any = None) -> Any:
    from proxy_engine.errors import ProxyEngineError

    try:
        return client.call(method, f"/tunnels/{segment(name)}{below}", body=body)
    except ApiError as error:
        if error.code != "unknown_tunnel":
            raise
        raise ProxyEngineError(f'there is no tunnel named "{name}"') from None


def _state(tunnel: dict[str, Any]) -> str:
    """Whether it is online only a running server knows."""
    if not tunnel["is_enabled"]:
        return "disabled"
    if tunnel["maintenance"] is not None:
        return "maintenance"
    return "online" if tunnel["is_online"] else "-"
