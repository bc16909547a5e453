"""proxy-engine device: the machines behind the tunnels, whether the server runs or not."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.local import moment_text, with_store, write
from proxy_engine.cli.parser import add_common, add_store

if TYPE_CHECKING:
    from proxy_engine.storage import Device, DeviceEvent, Store

HISTORY = 10  # entries that "show" shows


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("device", help="see, block, kick and name devices")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    def add(name: str, text: str, function: Callable[[argparse.Namespace], int]) -> Any:
        action = actions.add_parser(name, help=text)
        if name != "list":
            action.add_argument("name", metavar="NAME")
        add_store(action)
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
    add("rename", "give it another name", _rename).add_argument("new_name", metavar="NEW_NAME")
    add("label", "set labels, or take them away", _label).add_argument(
        "labels", metavar="LABEL=VALUE", nargs="+", help="without a value: take it away"
    )
    add("delete", "delete it, its tunnels, its history and its own tokens", _delete)


def _list(args: argparse.Namespace) -> int:
    found = with_store(args, lambda store: store.devices())
    if args.json:
        print(json.dumps([_public(device) for device in found], indent=2))
        return 0
    from proxy_engine.cli.output import table
    from proxy_engine.text import escape, size_text

    table(
        ("name", "state", "last seen", "address", "agent", "requests", "in", "out", "labels"),
        [
            (
                device.name,
                "blocked" if device.is_blocked else "ok",
                moment_text(device.last_seen_at),
                device.address or "-",
                escape(device.agent) or "-",
                str(device.requests),
                size_text(device.bytes_in),
                size_text(device.bytes_out),
                " ".join(_labels(device)) or "-",
            )
            for device in found
        ],
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    async def work(store: Store) -> tuple[Device, list[DeviceEvent], str | None]:
        for device in await store.devices():
            if device.name == args.name:
                owners = [
                    token.name
                    for token in await store.tokens()
                    if token.id == device.owner_token_id
                ]
                events = await store.device_events(device.id, HISTORY)
                return device, events, next(iter(owners), None)
        raise _missing(args.name)

    device, events, owner = with_store(args, work)
    history = [
        {"at": each.at, "kind": each.kind, "address": each.address, "reason": each.reason}
        for each in events
    ]
    if args.json:
        print(json.dumps({**_public(device), "owner_token": owner, "history": history}, indent=2))
        return 0
    from proxy_engine.text import escape, size_text

    rows = {
        "name": device.name,
        "state": "blocked" if device.is_blocked else "ok",
        "labels": " ".join(_labels(device)),
        "owner token": owner,
        "created": moment_text(device.created_at),
        "first seen": moment_text(device.first_seen_at),
        "last seen": moment_text(device.last_seen_at),
        "address": device.address,
        "agent": escape(device.agent),
        "platform": escape(device.platform),
        "links": device.links,
        "requests": device.requests,
        "bytes in": size_text(device.bytes_in),
        "bytes out": size_text(device.bytes_out),
    }
    for name, value in rows.items():
        print(f"{name + ':':<12} {value if value not in ('', None) else '-'}")
    for each in events:
        print(f"{moment_text(each.at)} {each.kind:<8} {each.address:<16} {each.reason}".rstrip())
    return 0


def _create(args: argparse.Namespace) -> int:
    from proxy_engine import tokens
    from proxy_engine.errors import ProxyEngineError
    from proxy_engine.storage import NameTaken

    tokens.check_name(args.name, "device")
    try:
        write(
            args,
            "create_device",
            args.name,
            lambda store: store.device_add(args.name, {}, time.time()),
            create=True,
        )
    except NameTaken:
        raise ProxyEngineError(f'there is a device named "{args.name}" already') from None
    return 0


def _block(args: argparse.Namespace) -> int:
    return _change(args, "change_device", "is_blocked=true", is_blocked=True)


def _unblock(args: argparse.Namespace) -> int:
    return _change(args, "change_device", "is_blocked=false", is_blocked=False)


def _kick(args: argparse.Namespace) -> int:
    return _change(args, "kick_device", "", kicked_at=time.time())


def _rename(args: argparse.Namespace) -> int:
    from proxy_engine import tokens
    from proxy_engine.errors import ProxyEngineError
    from proxy_engine.storage import NameTaken

    tokens.check_name(args.new_name, "device")
    try:
        return _change(args, "change_device", "name", new_name=args.new_name)
    except NameTaken:
        raise ProxyEngineError(f'there is a device named "{args.new_name}" already') from None


def _label(args: argparse.Namespace) -> int:
    from proxy_engine.devices import check_labels

    async def work(store: Store) -> None:
        for device in await store.devices():
            if device.name != args.name:
                continue
            labels = dict(device.labels)
            for pair in args.labels:
                name, _, value = pair.partition("=")
                labels.pop(name, None)
                if value:
                    labels[name] = value
            check_labels(labels)
            await store.device_change(args.name, labels=labels)
            return
        raise _missing(args.name)

    write(args, "change_device", args.name, work, detail="labels")
    return 0


def _delete(args: argparse.Namespace) -> int:
    async def work(store: Store) -> None:
        if not await store.device_delete(args.name):
            raise _missing(args.name)

    write(args, "delete_device", args.name, work)
    return 0


def _change(args: argparse.Namespace, action: str, detail: str, **changes: Any) -> int:
    async def work(store: Store) -> None:
        if await store.device_change(args.name, **changes) is None:
            raise _missing(args.name)

    write(args, action, args.name, work, detail=detail)
    return 0


def _missing(name: str) -> Exception:
    from proxy_engine.errors import ProxyEngineError

    return ProxyEngineError(f'there is no device named "{name}"')


def _labels(device: Device) -> list[str]:
    from proxy_engine.text import escape

    return [escape(f"{name}={value}") for name, value in device.labels.items()]


def _public(device: Device) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(device)
