"""proxy-engine hook: the code that a server asks and tells what happens."""

from __future__ import annotations

import argparse
import json
from typing import Any

from proxy_engine.cli.client import add_target, connected
from proxy_engine.cli.parser import add_common


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("hook", help="see hooks: those of a server, and what there is")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show the hooks of a running server (--admin)")
    listing.add_argument("--json", action="store_true", help="one JSON array")
    add_target(listing)
    add_common(listing, _list)
    events = actions.add_parser(
        "events", help="show what hooks are asked and told, or one event with its fields"
    )
    events.add_argument("name", metavar="EVENT", nargs="?", help="such as device_connect")
    events.add_argument("--json", action="store_true", help="one JSON array")
    events.set_defaults(function=_events)
    available = actions.add_parser(
        "available", help="show the hooks that are here by name, or one with its options"
    )
    available.add_argument(
        "name", metavar="NAME", nargs="?", help="built in, of an installed package, or module:Class"
    )
    available.add_argument("--json", action="store_true", help="one JSON array")
    available.set_defaults(function=_available)


def _list(args: argparse.Namespace) -> int:
    with connected(args) as client:
        found = client.call("GET", "/hooks")["items"]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    from proxy_engine.cli.output import table
    from proxy_engine.text import escape

    table(
        ("name", "origin", "state", "events", "calls", "errors", "timeouts", "refusals", "dropped",
         "queue"),
        [
            (
                escape(hook["name"]),
                _origin(hook),
                "stuck" if hook["is_stuck"] else "ok",
                " ".join(hook["events"]),
                str(hook["calls"]),
                str(hook["errors"]),
                str(hook["timeouts"]),
                str(hook["refusals"]),
                str(hook["dropped"]),
                f"{hook['waiting']}/{hook['options']['queue']}",
            )
            for hook in found
        ],
    )  # fmt: skip
    return 0


def _origin(hook: dict[str, Any]) -> str:
    """Of what has no name of its own, the class."""
    from proxy_engine.text import escape

    origin: str = hook["origin"]
    return origin if origin in ("built in", "webhook_url") else escape(f"{origin} {hook['type']}")


def _events(args: argparse.Namespace) -> int:
    from proxy_engine.cli.output import table
    from proxy_engine.errors import UsageError, suggestion
    from proxy_engine.hooks import reference

    found = {event.name.removeprefix("on_"): event for event in reference.events()}
    if args.name is not None:
        name = args.name.removeprefix("on_")
        if name not in found:
            raise UsageError(f'there is no event "{name}"{suggestion(name, found)}')
        found = {name: found[name]}
    if args.json:
        print(json.dumps([_event_json(event) for event in found.values()], indent=2))
        return 0
    if args.name is None:
        table(
            ("method", "strategy", "with", "when"),
            [(each.name, each.strategy, _payload(each), each.text) for each in found.values()],
        )
        return 0
    [event] = found.values()
    print(f"{event.name}({_payload(event)}), {event.strategy}. {event.text}")
    print(event.payload_text)
    table(("field", "type", "meaning"), [tuple(field) for field in event.fields])
    return 0


def _payload(event: Any) -> str:
    return f"Sequence[{event.payload}]" if event.is_batch else str(event.payload)


def _event_json(event: Any) -> dict[str, Any]:
    return {**event._asdict(), "fields": [field._asdict() for field in event.fields]}


def _available(args: argparse.Namespace) -> int:
    from proxy_engine.cli.output import table
    from proxy_engine.hooks import reference

    if args.name is not None:
        return _show(args.name, as_json=args.json)
    found = [(name, *each) for name, each in reference.available().items()]
    if args.json:
        print(json.dumps([dict(zip(("name", "origin", "about"), x, strict=True)) for x in found]))
        return 0
    table(("name", "from", "what it does"), found)
    return 0


def _show(name: str, *, as_json: bool) -> int:
    from proxy_engine.cli.output import table
    from proxy_engine.hooks import loading, reference
    from proxy_engine.hooks.manager import overridden

    kind = loading.class_of(name)
    events = overridden(kind, name)
    own, general = reference.options(kind), reference.general_options(kind)
    if as_json:
        answer = {
            "name": name,
            "about": reference.about(kind),
            "events": [event.removeprefix("on_") for event in events],
            "options": [option._asdict() for option in (*own, *general)],
        }
        print(json.dumps(answer, indent=2))
        return 0
    print(reference.about(kind) or name)
    print(f"Events: {', '.join(event.removeprefix('on_') for event in events) or 'none'}")
    table(("option", "type", "default", "meaning"), [tuple(each) for each in (*own, *general)])
    return 0
