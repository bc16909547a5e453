"""proxy-engine token: make, list, rotate and revoke tokens, whether the server runs or not."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.local import moment_text, with_store, write
from proxy_engine.cli.parser import add_common, add_store

if TYPE_CHECKING:
    from proxy_engine.storage import Store, Token


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
        add_store(action)
        add_common(action, function)


def _create(args: argparse.Namespace) -> int:
    from proxy_engine import grants, tokens
    from proxy_engine.errors import ProxyEngineError, UsageError
    from proxy_engine.storage import NameTaken
    from proxy_engine.values import parse_duration

    try:
        expires_in = None if args.expires is None else parse_duration(args.expires)
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from None
    tokens.check_name(args.name)
    scopes = grants.parse_scopes(args.scope)
    limits = grants.parse_limits(args.limit)

    async def work(store: Store) -> str:
        secret, _ = await tokens.create(
            store,
            name=args.name,
            kind=args.kind,
            device=args.for_device,
            now=time.time(),
            expires_in=expires_in,
            scopes=scopes,
            limits=limits,
        )
        return secret

    given = ", ".join([args.kind, *scopes.texts(), *limits.texts()])
    try:
        print(write(args, "create_token", args.name, work, detail=given, create=True))
    except NameTaken:
        raise ProxyEngineError(f'there is a token named "{args.name}" already') from None
    return 0


def _list(args: argparse.Namespace) -> int:
    found = with_store(args, lambda store: store.tokens())
    now = time.time()
    if args.json:
        print(json.dumps([_public(token, now) for token in found], indent=2))
        return 0
    from proxy_engine.cli.output import table

    table(
        ("name", "kind", "device", "state", "allows", "created", "expires", "last used"),
        [
            (
                token.name,
                token.kind,
                token.device or "-",
                _state(token, now),
                " ".join([*token.scopes.texts(), *token.limits.texts()]) or "all",
                moment_text(token.created_at),
                moment_text(token.expires_at),
                moment_text(token.last_used_at),
            )
            for token in found
        ],
    )
    return 0


def _revoke(args: argparse.Namespace) -> int:
    async def work(store: Store) -> None:
        if not await store.token_revoke(args.name, time.time()):
            raise _missing(args.name)

    write(args, "revoke_token", args.name, work)
    return 0


def _rotate(args: argparse.Namespace) -> int:
    from proxy_engine import tokens
    from proxy_engine.errors import UsageError
    from proxy_engine.values import parse_duration

    try:
        overlap = parse_duration(args.overlap)
    except ValueError as error:
        raise UsageError(f"--overlap: {error}") from None

    async def work(store: Store) -> str:
        made = await tokens.rotate(store, args.name, now=time.time(), overlap=overlap)
        if made is None:
            raise _missing(args.name)
        return made[0]

    print(write(args, "rotate_token", args.name, work, detail=f"overlap {args.overlap}"))
    return 0


def _missing(name: str) -> Exception:
    from proxy_engine.errors import ProxyEngineError

    return ProxyEngineError(f'there is no live token named "{name}"')


def _state(token: Token, now: float) -> str:
    from proxy_engine.tokens import refusal

    reason = refusal(token, now)
    return "live" if reason is None else reason.removesuffix("_token")


def _public(token: Token, now: float) -> dict[str, Any]:
    return {
        "name": token.name,
        "kind": token.kind,
        "device": token.device,
        "state": _state(token, now),
        "scopes": token.scopes.texts(),
        "limits": token.limits.texts(),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
        "old_secret_until": token.old_expires_at,
    }
