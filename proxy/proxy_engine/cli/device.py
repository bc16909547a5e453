"""proxy-engine device: the machines behind the tunnels."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from proxy_engine.cli.client import ApiError, Client, add_target, connected, items, segment
from proxy_engine.cli.output import moment_text
from proxy_engine.cli.parser import add_common

HISTORY = 10  # entries that "show" shows


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("device", help="see, block, kick and name devices")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    def add(name: str, text: str, function: Callable[[argparse.Namespace], int]) -> Any:
        action = actions.add_parser(name, help=text)
        if name != "list":
            action.add_argument("name", metavar="NAME", help="of the device")
        add_target(action)
        add_common(action, function)
        return action

    add("list", "show all devices", _list).add_argument(
        "--json", action="store_true", help="one JSON array"
    )
    add("show", "show one device, its counts and when it came and went", _show).add_argument(
        "--json", action="store_true", help="one JSON object"
    )
    add("create", "register a device before it connects", _create)
    add("block", "end its links and keep it out", _block)
    add("unblock", "let it in again", _unblock)
    add("kick", "end its links; it may come back", _kick)
    rename = add("rename", "give it another name", _rename)
    rename.add_argument("new_name", metavar="NEW_NAME", help="what it is called from now on")
    add("label", "set labels, or take them away", _label).add_argument(
        "labels", metavar="LABEL=VALUE", nargs="+", help="without a value: take it away"
    )
    add("certificate", "bind its client certificate, or take that away", _certificate).add_argument(
        "names", metavar="cn:NAME|dns:NAME|uri:URI", nargs="*", help="none: the device's own name"
    )
    add("delete", "delete it, its tunnels, its history and its own tokens", _delete)


def _list(args: argparse.Namespace) -> int:
    with connected(args) as client:
        found = list(items(client, "/devices"))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    from proxy_engine.cli.output import table
    from proxy_engine.text import escape, size_text

    table(
        ("name", "state", "last seen", "address", "agent", "requests", "in", "out", "labels"),
        [
            (
                device["name"],
                _state(device),
                moment_text(device["last_seen_at"]),
                device["address"] or "-",
                escape(device["agent"]) or "-",
                str(device["requests_total"]),
                size_text(device["bytes_in_total"]),
                size_text(device["bytes_out_total"]),
                " ".join(_labels(device)) or "-",
            )
            for device in found
        ],
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    with connected(args) as client:
        device = _ask(client, "GET", args.name)
        query = {"limit": HISTORY}
        history = client.call("GET", f"{_path(args.name)}/history", query=query)["items"]
    if args.json:
        print(json.dumps({**device, "history": history}, indent=2))
        return 0
    from proxy_engine.text import escape, size_text

    rows = {
        "name": device["name"],
        "state": _state(device),
        "labels": " ".join(_labels(device)),
        "certificate": " ".join(map(escape, device["certificate_names"])),
        "owner token": device["owner_token"],
        "created": moment_text(device["created_at"]),
        "first seen": moment_text(device["first_seen_at"]),
        "last seen": moment_text(device["last_seen_at"]),
        "address": device["address"],
        "agent": escape(device["agent"]),
        "platform": escape(device["platform"]),
        "links": device["links_total"],
        "requests": device["requests_total"],
        "bytes in": size_text(device["bytes_in_total"]),
        "bytes out": size_text(device["bytes_out_total"]),
    }
    for name, value in rows.items():
        print(f"{name + ':':<12} {value if value not in ('', None) else '-'}")
    for each in history:
        moment, reason = moment_text(each["at"]), escape(each["reason"])
        print(f"{moment} {each['kind']:<8} {each['address']:<16} {reason}".rstrip())
    return 0


def _create(args: argparse.Namespace) -> int:
    from proxy_engine import tokens

    tokens.check_name(args.name, "device")
    with connected(args, create=True) as client, _named(args.name):
        client.call("POST", "/devices", body={"name": args.name})
    return 0


def _block(args: argparse.Namespace) -> int:
    return _change(args, is_blocked=True)


def _unblock(args: argparse.Namespace) -> int:
    return _change(args, is_blocked=False)


def _kick(args: argparse.Namespace) -> int:
    with connected(args) as client:
        _ask(client, "POST", args.name, "/kick")
    return 0


def _rename(args: argparse.Namespace) -> int:
    from proxy_engine import tokens

    tokens.check_name(args.new_name, "device")
    with _named(args.new_name):
        return _change(args, name=args.new_name)


def _label(args: argparse.Namespace) -> int:
    with connected(args) as client:
        labels = dict(_ask(client, "GET", args.name)["labels"])
        for pair in args.labels:
            name, _, value = pair.partition("=")
            labels.pop(name, None)
            if value:
                labels[name] = value
        _ask(client, "PATCH", args.name, body={"labels": labels})
    return 0


def _certificate(args: argparse.Namespace) -> int:
    from proxy_engine.tls.certificate_names import check_names

    check_names(args.names)
    return _change(args, certificate_names=args.names)


def _delete(args: argparse.Namespace) -> int:
    with connected(args) as client:
        _ask(client, "DELETE", args.name)
    return 0


def _change(args: argparse.Namespace, **changes: Any) -> int:
    with connected(args) as client:
        _ask(client, "PATCH", args.name, body=changes)
    return 0


def _path(name: str) -> str:
    return f"/devices/{segment(name)}"


def _ask(client: Client, method: str, name: str, below: str = "", *, body: Any = None) -> Any:
    from proxy_engine.errors import ProxyEngineError

    try:
        return client.call(method, _path(name) + below, body=body)
    except ApiError as error:
        if error.status != 404:
            raise
        raise ProxyEngineError(f'there is no device named "{name}"') from None


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which name it is that another device has."""
    from proxy_engine.errors import ProxyEngineError

    try:
        yield
    except ApiError as error:
        if error.code != "name_taken":
            raise
        raise ProxyEngineError(f'there is a device named "{name}" already') from None


def _state(device: dict[str, Any]) -> str:
    """Whether it is online only a running server knows."""
    if device["is_blocked"]:
        return "blocked"
    return "online" if device["is_online"] else "ok"


def _labels(device: dict[str, Any]) -> list[str]:
    from proxy_engine.text import escape

    return [escape(f"{name}={value}") for name, value in device["labels"].items()]
