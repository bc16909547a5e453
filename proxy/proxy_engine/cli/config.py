"""proxy-engine config: the settings as they are, and whether they are good."""

from __future__ import annotations

import argparse
from typing import Any

from proxy_engine.cli.parser import add_common, loaded


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("config", help="show and check the settings")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show", help="print the settings as a TOML file, from variables and the file"
    )
    show.add_argument(
        "--sources",
        action="store_true",
        help="with where each came from and whether it changes live, defaults too",
    )
    show.add_argument("--json", action="store_true", help="one JSON object")
    add_common(show, _show)
    validate = actions.add_parser("validate", help="check everything, change nothing")
    add_common(validate, _validate)


def _show(args: argparse.Namespace) -> int:
    from proxy_engine.agent import reload as agent
    from proxy_engine.reload import LIVE
    from proxy_engine.settings import config

    chosen = loaded(args, standard=True)
    rows = {
        key: (config.plain(chosen.settings, key), chosen.source(key))
        for key in config.KEYS
        if args.sources or key in chosen.sources
    }
    if args.json:
        import json

        found = {
            key: {"value": value, "source": source, "is_live": key in LIVE or key in agent.LIVE}
            if args.sources
            else value
            for key, (value, source) in rows.items()
        }
        print(json.dumps(found, indent=2))
        return 0
    lines = {key: f"{key} = {_toml(value)}" for key, (value, _) in rows.items()}
    width = max(map(len, lines.values()), default=0)
    for key, (_, source) in rows.items():
        note = "" if key in LIVE or key in config.CLIENT_KEYS else "; restart to change"
        print(f"{lines[key]:<{width}}  # {source}{note}" if args.sources else lines[key])
    return 0


def _validate(args: argparse.Namespace) -> int:
    import time

    from proxy_engine import reload, server_hooks
    from proxy_engine.settings import config
    from proxy_engine.text import escape
    from proxy_engine.tls import keeper as tls_keeper
    from proxy_engine.tls.client import LinkTls, TargetTls

    chosen = loaded(args, standard=True)
    reload.check(chosen.settings)
    server_hooks.check(chosen.settings)
    tls_keeper.check(chosen.settings, time.time())
    LinkTls(chosen.settings)
    TargetTls(chosen.settings)
    for name in config.SECRETS:
        if getattr(chosen.settings, f"{name}_file") not in ("", "-"):
            config.secret(chosen.settings, name)  # says if it can not be read
    given = len(chosen.sources)
    print(escape(f"ok: {given} settings given, {len(config.KEYS) - given} by default"))
    return 0


def _toml(value: Any) -> str:
    """A value of a setting in TOML."""
    import json

    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    # Of JSON's texts only DEL is written otherwise in TOML.
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
