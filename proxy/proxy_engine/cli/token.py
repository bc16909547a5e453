"""proxy-engine token: make, list, rotate and revoke tokens."""

from __future__ import annotations

import argparse
import json
from typing import Any

from proxy_engine.cli.client import add_target, connected, items, segment
from proxy_engine.cli.output import moment_text
from proxy_engine.cli.parser import add_common


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("token", help="make, list, rotate and revoke tokens")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    create = actions.add_parser("create", help="make a token and print it, only now")
    create.add_argument("--name", required=True, help="a unique name for the token")
    create.add_argument(
        "--kind", choices=("device", "admin"), default="device", help="what it opens [device]"
    )
    create.add_argument(
        "--device",
        metavar="NAME",
        dest="for_device",  # "device" is a setting
        default=None,
        help="the device it is for [the token's name]",
    )
    create.add_argument("--expires", metavar="TIME", default=None, help="such as 30d [never]")
    create.add_argument(
        "--scope",
        metavar="SCOPE",
        action="append",
        default=[],
        help="bound it: tunnel=PATTERN, port=FIRST-LAST, device=PATTERN, read-only; repeatable",
    )
    create.add_argument(
        "--limit",
        metavar="LIMIT",
        action="append",
        default=[],
        help="bound it: tunnels=N, all its links together",
    )
    listing = actions.add_parser("list", help="show the tokens, without their secrets")
    listing.add_argument("--json", action="store_true", help="one JSON array")
    revoke = actions.add_parser("revoke", help="make a token useless; its links are closed")
    revoke.add_argument("name", metavar="NAME")
    rotate = actions.add_parser("rotate", help="give a token a new secret and print it, only now")
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--overlap", metavar="TIME", default="1h", help="how long the old one is still good [1h]"
    )
    for action, function in (
        (create, _create),
        (listing, _list),
        (revoke, _revoke),
        (rotate, _rotate),
    ):
        add_target(action)
        add_common(action, function)


def _create(args: argparse.Namespace) -> int:
    import msgspec

    from proxy_engine import grants, tokens
    from proxy_engine.cli.client import ApiError
    from proxy_engine.errors import ProxyEngineError

    tokens.check_name(args.name)
    if args.for_device is not None:
        tokens.check_name(args.for_device, "device")
    body = {
        "name": args.name,
        "kind": args.kind,
        "device": args.for_device,
        "expires_in": None if args.expires is None else _duration("--expires", args.expires),
        "scopes": msgspec.to_builtins(grants.parse_scopes(args.scope)),
        "limits": msgspec.to_builtins(grants.parse_limits(args.limit)),
    }
    with connected(args, create=True) as client:
        try:
            print(client.call("POST", "/tokens", body=body)["secret"])
        except ApiError as error:
            if error.code != "name_taken":
                raise
            raise ProxyEngineError(f'there is a token named "{args.name}" already') from None
    return 0


def _list(args: argparse.Namespace) -> int:
    with connected(args) as client:
        found = list(items(client, "/tokens"))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    from proxy_engine.cli.output import table

    table(
        ("name", "kind", "device", "state", "allows", "created", "expires", "last used"),
        [
            (
                token["name"],
                token["kind"],
                token["device"] or "-",
                token["state"],
                _allows(token),
                moment_text(token["created_at"]),
                moment_text(token["expires_at"]),
                moment_text(token["last_used_at"]),
            )
            for token in found
        ],
    )
    return 0


def _revoke(args: argparse.Namespace) -> int:
    with connected(args) as client:
        client.call("POST", f"/tokens/{segment(args.name)}/revoke")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    overlap = _duration("--overlap", args.overlap)
    with connected(args) as client:
        path = f"/tokens/{segment(args.name)}/rotate"
        print(client.call("POST", path, body={"overlap": overlap})["secret"])
    return 0


def _duration(flag: str, text: str) -> float:
    from proxy_engine.errors import UsageError
    from proxy_engine.values import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _allows(token: dict[str, Any]) -> str:
    import msgspec

    from proxy_engine.grants import Limits, Scopes

    scopes = msgspec.convert(token["scopes"], Scopes)
    limits = msgspec.convert(token["limits"], Limits)
    return " ".join([*scopes.texts(), *limits.texts()]) or "all"
