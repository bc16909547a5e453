"""Small textual values of flags, variables and files: addresses, durations, lists."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

# A DNS label (RFC 1123): what a tunnel or device may be called.
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)

UNIX = "unix:"  # begins targets that are sockets of this machine
UNIX_SIZE_MAX = 107  # bytes of their names: unix(7)
POOL_MAX = 64  # idle direct connections of a link
# What a tunnel's connections are for: docs/tunnels.md.
Profile = Literal["balanced", "throughput", "latency"]
PROFILES: tuple[str, ...] = get_args(Profile)
DEFAULT_PROFILE: Profile = "balanced"
Traces = Literal["pass", "start", "join"]  # in the order of the engine's trace_mode
TRACES: tuple[str, ...] = get_args(Traces)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?", re.ASCII)
_DURATION_MAX = 100 * 365 * 86400.0  # seconds; keeps every sum with a wall clock in range

_SIZE_UNITS = {"": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]{0,3})", re.ASCII)
_SIZE_MAX = 1 << 60  # bytes


class Address(NamedTuple):
    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """A socket of this machine: host is "unix:/PATH" or "unix:@NAME", port 0."""
        return self.host.startswith(UNIX)

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, port_min: int = 0) -> Address:
    """HOST:PORT, [IPV6]:PORT or :PORT (every IPv4 address). Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f'"{text}" is not HOST:PORT')
    if not port_min <= int(port) <= 65535:
        raise ValueError(f'"{text}": the port must be {port_min}..65535')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f'"{text}": "{host}" is not an IPv6 address') from None
    elif ":" in host:
        raise ValueError(f'"{text}": write IPv6 addresses as [ADDRESS]:PORT')
    elif any(character.isspace() or character in "/@?#" for character in host):
        raise ValueError(f'"{text}" is not HOST:PORT')
    return Address(host or "0.0.0.0", int(port))


def parse_target(text: str) -> Address:
    """HOST:PORT, unix:/PATH or unix:@NAME. Raises ValueError."""
    text = text.strip()
    if not text.startswith(UNIX):
        return parse_address(text, port_min=1)
    name = text.removeprefix(UNIX)
    if not name.startswith(("/", "@")) or name in ("/", "@"):
        raise ValueError(f'"{text}" is not unix:/PATH or unix:@NAME')
    if "\0" in name or len(os.fsencode(name)) > UNIX_SIZE_MAX:
        raise ValueError(f'"{text}": the name of a socket is at most {UNIX_SIZE_MAX} bytes')
    return Address(text, 0)


class Listen(NamedTuple):
    """Where to listen, and whether with TLS."""

    address: Address
    scheme: str = ""  # "http", "https", or "": https where there is a certificate

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}" if self.scheme else str(self.address)


def parse_listen(text: str) -> Listen:
    """HOST:PORT, http://HOST:PORT or https://HOST:PORT. Raises ValueError."""
    scheme, colon, rest = text.strip().partition("://")
    if not colon:
        return Listen(parse_address(text))
    if scheme not in ("http", "https"):
        raise ValueError(f'"{text}" is not HOST:PORT, http://HOST:PORT or https://HOST:PORT')
    return Listen(parse_address(rest.rstrip("/")), scheme)


class HttpTarget(NamedTuple):
    """Where an HTTP tunnel's service is, and whether it speaks TLS."""

    address: Address
    is_tls: bool = False

    def __str__(self) -> str:
        return f"https://{self.address}" if self.is_tls else str(self.address)


def parse_http_target(text: str) -> HttpTarget:
    """HOST:PORT, http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH. Raises ValueError."""
    scheme, colon, rest = text.strip().partition("://")
    if not colon:
        return HttpTarget(parse_target(text))
    if scheme not in ("http", "https"):
        raise ValueError(f'"{text}" is not HOST:PORT, http://HOST:PORT or https://HOST:PORT')
    rest = rest.removesuffix("/")
    if ":" not in rest.rpartition("]")[2]:
        rest += ":443" if scheme == "https" else ":80"
    return HttpTarget(parse_address(rest, port_min=1), scheme == "https")


class PortTunnel(NamedTuple):
    """A TCP or UDP tunnel."""

    name: str  # "": to be made up
    port: int | None  # public; 0: any, None: a private tunnel
    target: Address

    def __str__(self) -> str:
        return str(self.target)


def parse_udp(key: str, target: str) -> PortTunnel:
    """A UDP tunnel from PORT or NAME:PORT, and its target. Raises ValueError."""
    tunnel = parse_tcp(key, target, kind="udp")
    if tunnel.port is None:
        raise ValueError(f'"{key}" is not PORT or NAME:PORT')
    return tunnel


def parse_tcp(key: str, target: str, kind: str = "tcp") -> PortTunnel:
    """A TCP tunnel from PORT, NAME:PORT or NAME, and its target. Raises ValueError."""
    name, _, digits = key.rpartition(":")
    if ":" not in key and not key.isdigit():
        name, digits = key, ""
    if (name or ":" in key) and not LABEL.fullmatch(name):
        raise ValueError(f'"{key}": "{name}" is not a tunnel name: a-z, 0-9 and inner "-"')
    if (name == "" or ":" in key) and not (
        digits.isascii() and digits.isdigit() and int(digits[:6]) <= 65535
    ):
        raise ValueError(f'"{key}" is not PORT, NAME:PORT or NAME')
    port = int(digits) if digits else None
    if not name and port:
        name = f"{kind}-{port}"
    return PortTunnel(
        name, port, parse_target(target) if kind == "tcp" else parse_address(target, port_min=1)
    )


def parse_duration(text: str | float) -> float:
    """Seconds from "30s", "500ms", "2h", "30d" or a plain number of seconds."""
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f'"{text}" is not a duration such as 500ms, 30s, 5m, 2h or 30d')
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > _DURATION_MAX:
        raise ValueError(f'"{text}" is more than a hundred years')
    return seconds


def parse_size(text: str | int) -> int:
    """Bytes from "10GiB", "500MB", "64k" (1024 each) or a plain number of bytes."""
    match = _SIZE.fullmatch(str(text).strip().lower())
    if match is None or match[2] not in _SIZE_UNITS:
        raise ValueError(f'"{text}" is not a size such as 500MB, 10GiB or 1048576')
    size = int(float(match[1]) * _SIZE_UNITS[match[2]])
    if size > _SIZE_MAX:
        raise ValueError(f'"{text}" is more than there are disks for')
    return size


def parse_pairs(items: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE items, each also a comma-separated list of them."""
    pairs: dict[str, str] = {}
    for item in items:
        for part in filter(None, (piece.strip() for piece in item.split(","))):
            name, equals, value = part.partition("=")
            if not equals or not name.strip() or not value.strip():
                raise ValueError(f'"{part}" is not NAME=VALUE')
            if name.strip() in pairs:
                raise ValueError(f'"{name.strip()}" is given twice')
            pairs[name.strip()] = value.strip()
    return pairs


def is_own_host(authority: str, names: Iterable[str] = ()) -> bool:
    """Whether a Host field means this machine: an address, localhost and names below it, or one of
    `names`. A page may point a name of its own at 127.0.0.1."""
    host = authority.rpartition("]")[0].lstrip("[") or authority.partition(":")[0]
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
