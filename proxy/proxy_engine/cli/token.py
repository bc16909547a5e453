"""proxy-engine token: make, list, change, rotate and revoke tokens."""

from __future__ import annotations

import argparse
import json
from typing import Any

from proxy_engine.cli.client import ApiError, add_target, connected, items, segment
from proxy_engine.cli.output import moment_text
from proxy_engine.cli.parser import add_common


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("token", help="make, list, change, rotate and revoke tokens")
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
        help="bound it: tunnel=PATTERN, port=FIRST-LAST, device=PATTERN, read-only; or give it "
        "connect=DEVICE/TUNNEL, domain=PATTERN; repeatable",
    )
    create.add_argument(
        "--limit",
        metavar="LIMIT",
        action="append",
        default=[],
        help="bound all its links together: tunnels=N, connections=N, requests=N/s,"
        " bandwidth=10MB/s; repeatable",
    )
    change = actions.add_parser("set", help="give a token other limits, which count at once")
    change.add_argument("name", metavar="NAME", help="of the token")
    change.add_argument(
        "--limit",
        metavar="LIMIT",
        action="append",
        required=True,
        help="tunnels=N, connections=N, requests=N/s or bandwidth=10MB/s; 0: none; repeatable."
        " What is not named stays",
    )
    listing = actions.add_parser("list", help="show the tokens, without their secrets")
    listing.add_argument("--json", action="store_true", help="one JSON array")
    revoke = actions.add_parser("revoke", help="make a token useless; its links are closed")
    revoke.add_argument("name", metavar="NAME", help="of the token")
    rotate = actions.add_parser("rotate", help="give a token a new secret and print it, only now")
    rotate.add_argument("name", metavar="NAME", help="of the token")
    rotate.add_argument(
        "--overlap", metavar="TIME", default="1h", help="how long the old one is still good [1h]"
    )
    for action, function in (
        (create, _create),
        (change, _set),
        (listing, _list),
        (revoke, _revoke),
        (rotate, _rotate),
    ):
        add_target(action)
        add_common(action, function)


def _create(args: argparse.Namespace) -> int:
    import msgspec

    from proxy_engine import grants, tokens
    from proxy_engine.errors import ProxyEngineError

    tokens.check_name(args.name)
    body = {
        "name": args.name,
        "kind": args.kind,
        "device": args.for_device,
        "expires_in": None if args.expires is None else _seconds("--expires", args.expires),
        "scopes": msgspec.to_builtins(grants.parse_scopes(args.scope)),
        "limits": msgspec.to_builtins(grants.parse_limits(args.limit)),
    }
    with connected(args, create=True) as client:
        try:
            made = client.call("POST", "/tokens", body=body)
        except ApiError as error:
            if error.code != "name_taken":
                raise
            raise ProxyEngineError(f'there is a token named "{args.name}" already') from None
    print(made["secret"])
    return 0


def _list(args: argparse.Namespace) -> int:
    with connected(args) as client:
        found = [_public(token) for token in items(client, "/tokens")]
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
                " ".join([*token["scopes"], *token["limits"]]) or "all",
                moment_text(token["created_at"]),
                moment_text(token["expires_at"]),
                moment_text(token["last_used_at"]),
            )
            for token in found
        ],
    )
    return 0


def _set(args: argparse.Namespace) -> int:
    from proxy_engine import grants

    limits = grants.parse_some_limits(args.limit)
    token = _change(args, "PATCH", "", {"limits": limits})
    print(" ".join(_public(token)["limits"]) or "no limits")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    _change(args, "POST", "/revoke", None)
    return 0


def _rotate(args: argparse.Namespace) -> int:
    overlap = _seconds("--overlap", args.overlap)
    print(_change(args, "POST", "/rotate", {"overlap": overlap})["secret"])
    return 0


def _change(args: argparse.Namespace, method: str, action: str, body: Any) -> Any:
    from proxy_engine.errors import ProxyEngineError

    with connected(args) as client:
        try:
            return client.call(method, f"/tokens/{segment(args.name)}{action}", body=body)
        except ApiError as error:
            if error.status != 404:
                raise
            raise ProxyEngineError(f'there is no live token named "{args.name}"') from None


def _seconds(flag: str, text: str) -> float:
    from proxy_engine.errors import UsageError
    from proxy_engine.values import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _public(token: dict[str, Any]) -> dict[str, Any]:
    """A token as it is listed: what it may as it is written in flags."""
    import msgspec

    from proxy_engine.grants import Limits, Scopes

    return {
        **{name: value for name, value in token.items() if name != "id"},
        "scopes": msgspec.convert(token["scopes"], Scopes).texts(),
        "limits": msgspec.convert(token["limits"], Limits).texts(),
    }
