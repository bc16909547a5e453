"""reference/settings: types, defaults, flags and variables from the code; what each is for from
docs/configuration.md, which a test holds to the code."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from docs.site.cli_page import verbs_of
from docs.site.markdown import code, sentence
from proxy_engine.cli import build_parser
from proxy_engine.settings import config, otlp, setting_values, tunnel_config

DOCS = Path(__file__).resolve().parents[1]
ABOUT = """\
# All settings

Made of the code, so this is what the program knows. How flags, variables and files go together,
and how settings change while a server runs: [Configuration](../configuration.md).

"""
# What a parser of setting_values takes.
TYPES = {
    setting_values.to_text: "text",
    setting_values.to_texts: "list of texts",
    setting_values.to_words: "list of texts",
    setting_values.to_names: "list of names",
    setting_values.to_boolean: "true or false",
    setting_values.to_duration: "duration: `500ms`, `30s`, `5m`, `2h`, `30d`, or seconds",
    setting_values.to_size: "size: `512KiB`, `10MB`, `1GiB`, or bytes",
    setting_values.to_share: "number from 0 to 1",
    setting_values.to_address: "`HOST:PORT`",
    setting_values.to_listen: "list of `HOST:PORT`, `https://HOST:PORT`, `http://HOST:PORT`",
    setting_values.to_domain: "domain name",
    setting_values.to_label: "tunnel name",
    setting_values.to_networks: "list of networks, `10.0.0.0/8`",
    setting_values.to_mongodb_uri: "`mongodb://` or `mongodb+srv://` URI",
    setting_values.to_redis_url: "`redis://`, `rediss://` or `unix://` URL",
    setting_values.to_web_url: "`http://` or `https://` URL",
    setting_values.to_url: "`http://` or `https://` URL",
    setting_values.to_ports: "list of ports and ranges, `22,2000-3000`",
    setting_values.to_pins: "list of `sha256/...`",
    setting_values.to_server_name: "host name or address",
    setting_values.to_files: "pairs `NAME = FILE`",
    setting_values.to_server_names: "pairs `NAME = HOST`",
    setting_values.to_allowed: "list of `NETWORK[:PORTS]`",
    setting_values.to_targets: "pairs `NAME = HOST:PORT`",
    setting_values.to_tcp: "pairs `[NAME:]PORT = HOST:PORT` or `NAME = HOST:PORT`",
    setting_values.to_udp: "pairs `[NAME:]PORT = HOST:PORT`",
    setting_values.to_engine_options: "pairs `OPTION = NUMBER`",
    otlp.to_endpoint: "`http://` or `https://` URL",
    otlp.to_signals: "`metrics`, `traces`, or both",
    otlp.to_headers: "`NAME=VALUE,...`, percent-encoded",
    otlp.to_attributes: "pairs `NAME = VALUE`",
    setting_values.to_tables: "tables by name; in a flag or variable JSON",
    tunnel_config.to_tunnels: "list of tables, only in a file",
}
CHANGES = {"live": "Changes while the server runs.", "restart": "Changes with a restart."}
OTHERS = {"data_dir": "directory", "basic_auth": "lines of `[NAME=]USER:PASSWORD`"}


class Row(NamedTuple):
    """What docs/configuration.md says of a setting."""

    of: str
    changes: str
    meaning: str


def documented() -> dict[str, Row]:
    text = (DOCS / "configuration.md").read_text()
    found = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \|[^|]*\|([^|]*)\|([^|]*)\|(.*)\|$", text, re.MULTILINE
    )
    return {
        name: Row(of.strip(), changes.strip(), meaning.strip())
        for names, of, changes, meaning in found
        for name in re.findall(r"\w+", names)
    }


def type_of(name: str) -> str:
    """Raises KeyError for a parser that is not known here."""
    parser: Callable[[Any], Any] = config._PARSERS[name]
    if name in OTHERS:
        return OTHERS[name]
    if parser in TYPES:
        return TYPES[parser]
    bounds = inspect.getclosurevars(parser).nonlocals
    if "choices" in bounds:
        return " or ".join(map(code, bounds["choices"]))
    if "shortest" in bounds:
        return f"duration from {bounds['shortest']:g}s to {bounds['longest']:g}s"
    return f"whole number from {bounds['low']} to {bounds['high']}"


def default_of(name: str) -> str:
    if name == "data_dir":
        return code("~/.local/share/proxy-engine")
    value = config.plain(config.Settings(), name)
    if value in ("", [], {}):
        return "none"
    if isinstance(value, list):
        value = ",".join(value)
    return code(value if isinstance(value, str) else json.dumps(value))


def flags_of(name: str) -> dict[str, list[str]]:
    """Verbs by flag; of "token create" the first word."""
    flags: dict[str, list[str]] = {}
    for words, parser in verbs_of(build_parser()):
        for action in parser._actions:
            if action.dest == name and action.option_strings:
                is_switch = isinstance(action, argparse.BooleanOptionalAction)
                shown = action.option_strings if is_switch else action.option_strings[:1]
                text = ", ".join(shown)
                metavar = "" if action.nargs == 0 or is_switch else f" {action.metavar}"
                verbs = flags.setdefault(text + metavar, [])
                if words.split()[0] not in verbs:
                    verbs.append(words.split()[0])
    return flags


def page() -> str:
    rows = documented()
    parts = [ABOUT]
    for name in config.KEYS:
        row = rows[name]
        meaning = re.sub(r"\]\((?=[\w.-]+\.md)", "](../", row.meaning)
        meaning = meaning.replace("](#", "](../configuration.md#")
        lines = [f"## {name}\n", sentence(meaning or "see the page above") + "\n"]
        lines.append(f"- {sentence(type_of(name))} Default: {default_of(name)}.")
        flags = [f"{code(flag)} of {', '.join(verbs)}" for flag, verbs in flags_of(name).items()]
        variable = code(config.ENV_PREFIX + name.upper())
        where = "; ".join([*flags, variable]) if name != "tunnels" else "a file"
        lines.append(f"- {where}.")
        if row.changes in CHANGES:
            lines.append(f"- {CHANGES[row.changes]}")
        parts.append("\n".join(lines) + "\n\n")
    return "".join(parts)
