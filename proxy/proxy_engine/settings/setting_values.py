"""What a setting may be, from a flag, a variable or the TOML file: text, or what TOML has for it.

Each function takes what was found and returns the setting's value; a ValueError says what is wrong.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from proxy_engine.control import TUNNELS_MAX
from proxy_engine.grants import PortRange
from proxy_engine.settings.allowed import Rule, parse_allowed
from proxy_engine.values import (
    LABEL,
    Address,
    HttpTarget,
    Listen,
    PortTunnel,
    parse_address,
    parse_duration,
    parse_http_target,
    parse_listen,
    parse_pairs,
    parse_size,
    parse_tcp,
    parse_udp,
)

_PIN = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)


def to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def to_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return value in ("true", "yes", "on", "1")
    raise ValueError(f'"{value}" is neither true nor false')


def to_texts(value: Any) -> tuple[str, ...]:
    """One text or several, each as it stands."""
    return tuple(map(to_text, value if isinstance(value, list) else [value]))


def to_words(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    words = [word.strip() for item in items for word in to_text(item).split(",")]
    return tuple(word for word in words if word)


def to_allowed(value: Any) -> tuple[Rule, ...]:
    return tuple(parse_allowed(word) for word in to_words(value))


def to_url(value: Any) -> str:
    text = to_text(value)
    if text and not text.startswith(("http://", "https://")):
        raise ValueError(f'"{text}" is not an http:// or https:// URL')
    return text.rstrip("/")


def to_integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError("expected a whole number")
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f'"{value}" is not a whole number') from None
        if not low <= number <= high:
            raise ValueError(f"{number} is not in {low}..{high}")
        return number

    return parse


def to_choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f'"{value}" is none of: {", ".join(choices)}')
        return str(value)

    return parse


def to_duration(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError('expected a duration such as "30s"')
    return parse_duration(value)


def to_duration_within(shortest: float, longest: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        seconds = to_duration(value)
        if not shortest <= seconds <= longest:
            raise ValueError(f"{seconds:g} s is not in {shortest:g}..{longest:g} s")
        return seconds

    return parse


def to_tables(value: Any) -> dict[str, dict[str, Any]]:
    """Tables by name; in a flag or variable the same as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValueError("expected tables by name")
    return value


def to_share(value: Any) -> float:
    try:
        share = float(to_text(value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise ValueError(f'"{value}" is not a number') from None
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise ValueError(f"{value} is not in 0..1")
    return share


def to_size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError('expected a size such as "10GiB"')
    return parse_size(value)


def to_mongodb_uri(value: Any) -> str:
    text = to_text(value)
    if text and not text.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("expected mongodb://HOST... or mongodb+srv://HOST...")
    return text


def to_redis_url(value: Any) -> str:
    text = to_text(value)
    parts = urlsplit(text)
    if text and not (
        (parts.scheme in ("redis", "rediss") and parts.hostname)
        or (parts.scheme == "unix" and parts.path)
    ):
        raise ValueError("expected redis://HOST..., rediss://HOST... (TLS) or unix:///PATH")
    return text


def to_address(value: Any) -> Address:
    return parse_address(to_text(value))


def to_listen(value: Any) -> tuple[Listen, ...]:
    found = tuple(parse_listen(word) for word in to_words(value))
    if not found:
        raise ValueError("expected HOST:PORT")
    return found


def to_pins(value: Any) -> tuple[str, ...]:
    pins = to_words(value)
    for pin in pins:
        kind, _, digest = pin.partition("/")
        if kind != "sha256" or not _PIN.fullmatch(digest):
            raise ValueError(f'"{pin}" is not sha256/ and the 44 characters of a digest in base64')
    return pins


def to_files(value: Any) -> dict[str, str]:
    return {to_label(name): to_text(item) for name, item in to_pairs(value).items()}


def to_server_name(value: Any) -> str:
    text = to_text(value).lower()
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return to_domain(text)


def to_server_names(value: Any) -> dict[str, str]:
    return {to_label(name): to_server_name(item) for name, item in to_pairs(value).items()}


def to_names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError("expected a list of names")
    return tuple(to_text(item).strip().lower() for item in items if to_text(item).strip())


def to_networks(value: Any) -> tuple[str, ...]:
    # Each is what ipaddress makes of it; a ValueError says what is wrong.
    return tuple(str(ipaddress.ip_network(name)) for name in to_names(value))


def to_label(value: Any) -> str:
    text = to_text(value)
    if text and not LABEL.fullmatch(text):
        raise ValueError(f'"{text}" is not a tunnel name: a-z, 0-9 and inner "-", at most 63')
    return text


def to_domain(value: Any) -> str:
    text = to_text(value).lower().strip(".")
    if len(text) > 189 or not all(LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f'"{value}" is not a domain name')
    return text


def to_web_url(value: Any) -> str:
    text = to_text(value)
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError(f'"{text}" is not http(s)://HOST...')
    return text


def to_pairs(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return dict(parse_pairs([value]))
    if isinstance(value, list):
        return dict(parse_pairs([to_text(item) for item in value]))
    if not isinstance(value, dict):
        raise ValueError("expected NAME = VALUE pairs")
    return value


def to_targets(value: Any) -> dict[str, HttpTarget]:
    targets = {}
    for name, target in to_pairs(value).items():
        if not name:
            raise ValueError('"" is not a tunnel name')
        targets[to_label(name)] = parse_http_target(to_text(target))
    if len(targets) > TUNNELS_MAX:
        raise ValueError(f"more than {TUNNELS_MAX} tunnels")
    return targets


def to_ports(value: Any) -> tuple[PortRange, ...]:
    items = [str(value)] if isinstance(value, int) else to_names(value)
    ranges = []
    for item in items:
        first, _, last = item.partition("-")
        parse = to_integer(1, 65535)
        ranges.append(PortRange(parse(first), parse(last or first)))
        if ranges[-1].first > ranges[-1].last:
            raise ValueError(f'"{item}" begins behind its end')
    return tuple(ranges)


def to_tcp(value: Any) -> dict[str, PortTunnel]:
    return _port_tunnels(value, parse_tcp)


def to_udp(value: Any) -> dict[str, PortTunnel]:
    return _port_tunnels(value, parse_udp)


def _port_tunnels(value: Any, parse: Callable[[str, str], PortTunnel]) -> dict[str, PortTunnel]:
    tunnels = {key: parse(key, to_text(target)) for key, target in to_pairs(value).items()}
    if len(tunnels) > TUNNELS_MAX:
        raise ValueError(f"more than {TUNNELS_MAX} tunnels")
    return tunnels


def to_engine_options(value: Any) -> dict[str, int]:
    parse = to_integer(-(2**63), 2**63 - 1)
    options = {}
    for name, option in to_pairs(value).items():
        try:
            options[name] = parse(option)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return options
