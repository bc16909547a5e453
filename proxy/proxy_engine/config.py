"""One settings tree: flags > environment PROXY_ENGINE_* > TOML file > defaults.

Every setting has one name in three spellings: `data_dir` in the file, `--data-dir` as a
flag, PROXY_ENGINE_DATA_DIR in the environment. A file may hold the settings of several
verbs; each reads what it needs. A secret may be in a file of its own, named by the setting
with `_file` added (Docker and Kubernetes give secrets so). Unknown keys fail with a
suggestion, because a typing error that is silently ignored is worse than a program that does
not start.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from proxy_engine.allowed import Allowed, parse_allowed
from proxy_engine.errors import UsageError, error_text, suggestion
from proxy_engine.grants import PortRange
from proxy_engine.values import (
    LABEL,
    Address,
    TcpTunnel,
    parse_address,
    parse_duration,
    parse_pairs,
    parse_size,
    parse_tcp,
)

ENV_PREFIX = "PROXY_ENGINE_"
TUNNELS_MAX = 2048  # of one agent: as control.py
LINKS_MAX = 64  # of one run of an agent: a route of the engine can name twice as many


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of every verb, with its default."""

    # run
    listen: Address = Address("0.0.0.0", 8080)
    admin: Address = Address("127.0.0.1", 8081)
    admin_hosts: tuple[str, ...] = ()  # Host names the API answers to, besides IPs and localhost
    domain: str = "localhost"
    data_dir: Path = Path()  # default_data_dir(), set by load()
    grace: float = 30.0  # seconds that requests in flight get when the program ends
    default_tunnel: str = ""
    trusted_proxy: tuple[str, ...] = ()  # networks whose X-Forwarded-* are believed
    keep_requests: int = 1_000_000  # of the request log; older ones are deleted; 0: no limit
    keep_requests_age: float = 0.0  # seconds; 0: no limit
    keep_requests_size: int = 0  # bytes; 0: no limit
    request_sample: float = 1.0  # share of the requests that went well that is logged
    request_redact: tuple[str, ...] = ()  # more keys of queries whose values are secret
    request_journal_max: int = 1 << 30  # bytes on disk while the store fails; 0: no journal
    mongodb_uri: str = ""  # the store instead of SQLite in data_dir
    mongodb_uri_file: str = ""
    mongodb_driver: Literal["motor", "pymongo"] = "motor"
    webhook_url: str = ""  # is told of devices that come and go
    webhook_secret: str = ""  # signs what it is told
    webhook_secret_file: str = ""
    login_failures: int = 20  # an address may have in a minute; 0: any number
    links_per_agent: int = 0  # links one run of an agent may have; 0: one for each worker
    tcp_ports: tuple[PortRange, ...] = (PortRange(10000, 20000),)  # that TCP tunnels may have
    link_busy_share: int = 60  # percent of a core that makes a worker busy; 0: all links at once
    # connect
    server: tuple[str, ...] = ()  # several: the first that answers
    proxy: str = ""  # on the way there: a URL, "none", or "": by HTTP_PROXY, NO_PROXY, ...
    token: str = ""
    token_file: str = ""
    device: str = ""  # the name of this device, for a token that is for several
    http: dict[str, Address] = {}
    tcp: dict[str, TcpTunnel] = {}  # by what was written in front of the target
    proxy_protocol: tuple[str, ...] = ()  # TCP tunnels whose targets are told the visitor
    transport: str = "auto"
    allow_target: tuple[Allowed, ...] = ()  # what targets may be; (): anything
    links: int = 0  # links to the server at most; 0: as many as it offers
    # the verbs that ask a server
    admin_url: str = ""  # of its admin listener; "": the data dir on this machine
    admin_token: str = ""
    admin_token_file: str = ""
    # several
    workers: int = 0  # threads of the data plane; 0: run: one for each core, connect: 1
    log_format: str = "text"
    engine: dict[str, int] = {}  # options of the native engine: see DEFAULTS in core.pyi


def default_data_dir(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    root = Path(base) if base.startswith("/") else Path("~/.local/share").expanduser()
    return root / "proxy-engine"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def _words(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    words = [word.strip() for item in items for word in _text(item).split(",")]
    return tuple(word for word in words if word)


def _allowed(value: Any) -> tuple[Allowed, ...]:
    return tuple(parse_allowed(word) for word in _words(value))


def _url(value: Any) -> str:
    text = _text(value)
    if text and not text.startswith(("http://", "https://")):
        raise ValueError(f'"{text}" is not an http:// or https:// URL')
    return text.rstrip("/")


def _integer(low: int, high: int) -> Callable[[Any], int]:
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


def _choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f'"{value}" is none of: {", ".join(choices)}')
        return str(value)

    return parse


def _duration(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError('expected a duration such as "30s"')
    return parse_duration(value)


def _share(value: Any) -> float:
    try:
        share = float(_text(value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise ValueError(f'"{value}" is not a number') from None
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise ValueError(f"{value} is not in 0..1")
    return share


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError('expected a size such as "10GiB"')
    return parse_size(value)


def _mongodb_uri(value: Any) -> str:
    text = _text(value)
    if text and not text.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("expected mongodb://HOST... or mongodb+srv://HOST...")
    return text


def _address(value: Any) -> Address:
    return parse_address(_text(value))


def _names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError("expected a list of names")
    return tuple(_text(item).strip().lower() for item in items if _text(item).strip())


def _networks(value: Any) -> tuple[str, ...]:
    # Each is what ipaddress makes of it; a ValueError says what is wrong.
    return tuple(str(ipaddress.ip_network(name)) for name in _names(value))


def _label(value: Any) -> str:
    text = _text(value)
    if text and not LABEL.fullmatch(text):
        raise ValueError(f'"{text}" is not a tunnel name: a-z, 0-9 and inner "-", at most 63')
    return text


def _domain(value: Any) -> str:
    text = _text(value).lower().strip(".")
    if len(text) > 189 or not all(LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f'"{value}" is not a domain name')
    return text


def _web_url(value: Any) -> str:
    text = _text(value)
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError(f'"{text}" is not http(s)://HOST...')
    return text


def _pairs(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return dict(parse_pairs([value]))
    if isinstance(value, list):
        return dict(parse_pairs([_text(item) for item in value]))
    if not isinstance(value, dict):
        raise ValueError("expected NAME = VALUE pairs")
    return value


def _targets(value: Any) -> dict[str, Address]:
    targets = {}
    for name, target in _pairs(value).items():
        if not name:
            raise ValueError('"" is not a tunnel name')
        targets[_label(name)] = parse_address(_text(target), port_min=1)
    if len(targets) > TUNNELS_MAX:
        raise ValueError(f"more than {TUNNELS_MAX} tunnels")
    return targets


def _ports(value: Any) -> tuple[PortRange, ...]:
    items = [str(value)] if isinstance(value, int) else _names(value)
    ranges = []
    for item in items:
        first, _, last = item.partition("-")
        parse = _integer(1, 65535)
        ranges.append(PortRange(parse(first), parse(last or first)))
        if ranges[-1].first > ranges[-1].last:
            raise ValueError(f'"{item}" begins behind its end')
    return tuple(ranges)


def _tcp(value: Any) -> dict[str, TcpTunnel]:
    tunnels = {key: parse_tcp(key, _text(target)) for key, target in _pairs(value).items()}
    if len(tunnels) > TUNNELS_MAX:
        raise ValueError(f"more than {TUNNELS_MAX} tunnels")
    return tunnels


def _engine_options(value: Any) -> dict[str, int]:
    parse = _integer(-(2**63), 2**63 - 1)
    options = {}
    for name, option in _pairs(value).items():
        try:
            options[name] = parse(option)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return options


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "listen": _address,
    "admin": _address,
    "admin_hosts": _names,
    "domain": _domain,
    "data_dir": lambda value: Path(_text(value)).expanduser(),
    "grace": _duration,
    "default_tunnel": _label,
    "trusted_proxy": _networks,
    "keep_requests": _integer(0, 2**53),
    "keep_requests_age": _duration,
    "keep_requests_size": _size,
    "request_sample": _share,
    "request_redact": _names,
    "request_journal_max": _size,
    "mongodb_uri": _mongodb_uri,
    "mongodb_uri_file": _text,
    "mongodb_driver": _choice("motor", "pymongo"),
    "webhook_url": _web_url,
    "webhook_secret": _text,
    "webhook_secret_file": _text,
    "login_failures": _integer(0, 1_000_000),
    "links_per_agent": _integer(0, LINKS_MAX),
    "tcp_ports": _ports,
    "link_busy_share": _integer(0, 100),
    "server": _words,
    "proxy": _text,
    "allow_target": _allowed,
    "token": _text,
    "token_file": _text,
    "device": _text,
    "http": _targets,
    "tcp": _tcp,
    "proxy_protocol": _names,
    "transport": _choice("auto", "ws", "tcp"),
    "links": _integer(0, LINKS_MAX),
    "admin_url": _url,
    "admin_token": _text,
    "admin_token_file": _text,
    "workers": _integer(0, 64),
    "log_format": _choice("text", "json"),
    "engine": _engine_options,
}
KEYS = tuple(_PARSERS)
# Of verbs other than run.
CLIENT_KEYS = frozenset(
    {
        *("server", "proxy", "device", "token", "token_file", "http", "transport", "links"),
        "allow_target",
        *("admin_url", "admin_token", "admin_token_file"),
    }
)
# Never shown; each may be in a file of its own.
SECRETS = tuple(key.removesuffix("_file") for key in KEYS if key.endswith("_file"))
assert set(KEYS) == set(Settings.__struct_fields__)


class Loaded(NamedTuple):
    settings: Settings
    # Where each setting that is not a default came from: "--listen", "PROXY_ENGINE_LISTEN" or
    # "FILE: listen".
    sources: dict[str, str]

    def source(self, key: str) -> str:
        return self.sources.get(key, "default")


REDACTED = "[redacted]"


def plain(settings: Settings, key: str) -> Any:
    """A setting as it would stand in the file; secrets are not shown."""
    value = getattr(settings, key)
    if key in SECRETS:
        return REDACTED if value else ""
    if key == "proxy":
        return re.sub(r"//[^/]*@", f"//{REDACTED}@", value)
    if isinstance(value, (Address, Path)):
        return str(value)
    if isinstance(value, tuple):
        return [str(x) for x in value]
    if isinstance(value, dict):
        return {
            name: str(x) if isinstance(x, (Address, TcpTunnel)) else x for name, x in value.items()
        }
    return value


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, file: str | None = None
) -> Settings:
    """The settings of one invocation.

    Args:
        flags: only what was given on the command line, by setting name.
        environ: usually os.environ.
        file: --config; else PROXY_ENGINE_CONFIG; else none.
    Raises: UsageError naming the place and, for unknown keys, the nearest known one.
    """
    return load_with_sources(flags, environ, file=file).settings


def load_with_sources(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, file: str | None = None
) -> Loaded:
    """The same, and where each came from."""
    file = file or environ.get(ENV_PREFIX + "CONFIG") or None
    layers: list[tuple[Callable[[str], str], Mapping[str, Any]]] = [
        (lambda key: "--" + key.replace("_", "-"), flags),
        (lambda key: ENV_PREFIX + key.upper(), _environment(environ)),
    ]
    if file is not None:
        layers.append((lambda key: f"{file}: {key}", _read_file(file)))
    values: dict[str, Any] = {"data_dir": default_data_dir(environ)}
    sources: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for rank, (place, layer) in enumerate(layers):
        for key, raw in layer.items():
            if key in sources:
                continue
            try:
                values[key] = _PARSERS[key](raw)
            except ValueError as error:
                raise UsageError(f"{place(key)}: {error}") from None
            sources[key], ranks[key] = place(key), rank
    for name in SECRETS:
        for dropped in _one_of(name, f"{name}_file", values, ranks):
            del values[dropped], sources[dropped]
    return Loaded(Settings(**values), sources)


def _one_of(
    name: str, name_file: str, values: Mapping[str, Any], ranks: Mapping[str, int]
) -> list[str]:
    """A secret or its file: the nearer layer wins; both in one layer is a mistake."""
    if not (values.get(name) and values.get(name_file)):
        return []
    if ranks[name] == ranks[name_file]:
        raise UsageError(f"both {name} and {name_file} are given; use one")
    return [name if ranks[name] > ranks[name_file] else name_file]


def secret(settings: Settings, name: str) -> str:
    """The value of one of SECRETS, from its file if it has one ("-": standard input).

    Read when it is needed and not by load(), because a file may be there for one verb only.
    Raises: UsageError.
    """
    value: str = getattr(settings, name)
    file: str = getattr(settings, f"{name}_file")
    if file == "-":
        value = sys.stdin.readline()
    elif file:
        try:
            with open(file, encoding="utf-8") as stream:
                value = stream.readline()
        except (OSError, UnicodeDecodeError) as error:
            what = name.replace("_", " ")
            raise UsageError(f"{what} file {file}: {error_text(error)}") from None
    return value.strip()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    layer = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if key in _PARSERS:
            layer[key] = value
            continue
        # Others set variables with our prefix too (Kubernetes does for a service of
        # this name), so only what is nearly one of ours counts as a typing error.
        if key != "config" and suggestion(key, [*KEYS, "config"], cutoff=0.85):
            known = [ENV_PREFIX + other.upper() for other in (*KEYS, "config")]
            raise UsageError(f"unknown setting {name}{suggestion(name, known)}")
    return layer


def _read_file(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            data = tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"config file {file}: {error_text(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {file}: not TOML: {error}") from None
    for key in data:
        if key not in _PARSERS:
            raise UsageError(f'{file}: unknown key "{key}"{suggestion(key, KEYS)}')
    return data
