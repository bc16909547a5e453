"""What a token allows beyond its kind: scopes, which bound what it is good for, and limits,
which bound how much of it there may be at once.

As text, on the command line and in settings: `tunnel=web-*`, `port=2000-2010`,
`device=sensor-*`, `connect=pi/*`, `domain=*.example.com`, `read-only`; `tunnels=5`,
`connections=100`, `requests=50/s`, `bandwidth=10MB/s`. As JSON, in the store and in the API: the
structs below.

Pure: nothing here talks to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

import msgspec

from proxy_engine.errors import UsageError, suggestion
from proxy_engine.values import parse_size

PATTERNS_MAX = 64  # of each kind in one token
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,63}", re.ASCII)
_DOMAIN = re.compile(r"[A-Za-z0-9.*?-]{1,253}", re.ASCII)
_CONNECT = re.compile(_PATTERN.pattern + "/" + _PATTERN.pattern, re.ASCII)
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
LIMIT_MAX = 1_000_000
BANDWIDTH_MAX = 100_000_000_000
_UNITS = (
    *(("GB", 10**9), ("MB", 10**6), ("KB", 10**3)),
    *(("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)),
)

Pattern = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9._*?-]{1,63}$", description='a name; "*" and "?" match any'),
]
ConnectPattern = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9._*?-]{1,63}/[A-Za-z0-9._*?-]{1,63}$",
        description='DEVICE/TUNNEL; "*" and "?" match any',
    ),
]
DomainPattern = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9.*?-]{1,253}$", description='a domain; "*" and "?" match any'
    ),
]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=LIMIT_MAX, description="0: no limit")]
Bandwidth = Annotated[
    int, msgspec.Meta(ge=0, le=BANDWIDTH_MAX, description="bytes a second; 0: no limit")
]


class PortRange(NamedTuple):
    """Both ends belong to it."""

    first: Port
    last: Port

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"


class Scopes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
             forbid_unknown_fields=True):  # fmt: skip
    """What a token is good for. None bounds nothing; an empty list allows none."""

    devices: Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=PATTERNS_MAX)] | None = None
    tunnels: Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=PATTERNS_MAX)] | None = None
    ports: Annotated[tuple[PortRange, ...], msgspec.Meta(max_length=PATTERNS_MAX)] | None = None
    connect: Annotated[tuple[ConnectPattern, ...], msgspec.Meta(max_length=PATTERNS_MAX)] | None = (
        None  # None: only the tunnels of the token's own device
    )
    domains: Annotated[tuple[DomainPattern, ...], msgspec.Meta(max_length=PATTERNS_MAX)] | None = (
        None  # None: no custom domains, as with an empty list
    )
    read_only: bool = False

    def allows_device(self, name: str) -> bool:
        """Whether a device may register by this name. One device's own token has no patterns."""
        return _matches(self.devices, name)

    def allows_tunnel(self, name: str) -> bool:
        return _matches(self.tunnels, name)

    def allows_connect(self, tunnel: str) -> bool:
        """Whether it may join this TCP tunnel, "DEVICE/TUNNEL", of another device."""
        return self.connect is not None and _matches(self.connect, tunnel)

    def allows_domain(self, name: str) -> bool:
        """Whether an agent may have this custom domain. One with a "*" needs a pattern that
        begins with one: "?.example.com" is not meant to give all of them away."""
        patterns = self.domains or ()
        if name.startswith("*."):
            patterns = tuple(pattern for pattern in patterns if pattern.startswith("*"))
        return _matches(tuple(map(str.lower, patterns)), name)

    def allows_port(self, port: int) -> bool:
        """Whether a tunnel may have this public port; the server's own settings stand above."""
        return self.ports is None or any(first <= port <= last for first, last in self.ports)

    def texts(self) -> list[str]:
        """As parse_scopes() takes them."""
        found: list[str] = []
        for word, patterns in (("device", self.devices), ("tunnel", self.tunnels)):
            found += [f"{word}={pattern}" for pattern in patterns or ()]
            found += [f"{word}=none"] if patterns == () else []
        found += [f"port={ports}" for ports in self.ports or ()]
        found += ["port=none"] if self.ports == () else []
        found += [f"connect={pattern}" for pattern in self.connect or ()]
        found += ["connect=none"] if self.connect == () else []
        found += [f"domain={pattern}" for pattern in self.domains or ()]
        found += ["domain=none"] if self.domains == () else []
        return [*found, "read-only"] if self.read_only else found


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
             forbid_unknown_fields=True):  # fmt: skip
    """How much of it there may be, over all links of a token together. 0: no limit."""

    tunnels: Limit = 0  # served at once
    connections: Limit = 0  # of visitors at once; of HTTP the requests under way
    requests: Limit = 0  # a second, each new connection to a TCP tunnel is one
    bandwidth: Bandwidth = 0  # both ways together

    @property
    def shared(self) -> tuple[int, int, int]:
        """Those that the engine keeps: its auth_reply() and limits_apply()."""
        return self.connections, self.requests, self.bandwidth

    def texts(self) -> list[str]:
        """As parse_limits() takes them."""
        return [
            f"{name}={_amount(name, getattr(self, name))}"
            for name in self.__struct_fields__
            if getattr(self, name)
        ]


ANY = Scopes()
UNLIMITED = Limits()
_SCOPE_WORDS = ("device", "tunnel", "port", "connect", "domain", "read-only")


def parse_scopes(items: Iterable[str]) -> Scopes:
    """Scopes from texts, each one or several with commas. Raises UsageError."""
    names: dict[str, list[str]] = {}
    ports: list[PortRange] | None = None
    read_only = False
    for text in _split(items):
        word, _, value = text.partition("=")
        if text == "read-only":
            read_only = True
        elif word == "port" and value:
            ports = [*(ports or []), *([] if value == "none" else [_ports(value)])]
        elif word == "connect" and value:
            if value != "none" and not _CONNECT.fullmatch(value):
                raise UsageError(f'"{value}" is not DEVICE/TUNNEL or a pattern, such as pi/*')
            names.setdefault(word, []).extend([] if value == "none" else [value])
        elif word == "domain" and value:
            if not _DOMAIN.fullmatch(value):
                raise UsageError(f'"{value}" is not a domain or pattern, such as *.example.com')
            names.setdefault(word, []).extend([] if value == "none" else [value])
        elif word in ("device", "tunnel") and value:
            if not _PATTERN.fullmatch(value):
                raise UsageError(f'"{value}" is not a {word} name or pattern, such as web-*')
            names.setdefault(word, []).extend([] if value == "none" else [value])
        else:
            raise UsageError(
                f'"{text}" is not a scope: {", ".join(_SCOPE_WORDS[:-1])}=... or read-only'
                f"{suggestion(word, _SCOPE_WORDS)}"
            )
    if max(map(len, names.values()), default=0) > PATTERNS_MAX or len(ports or ()) > PATTERNS_MAX:
        raise UsageError(f"more than {PATTERNS_MAX} scopes of one kind")
    return Scopes(
        devices=tuple(names["device"]) if "device" in names else None,
        tunnels=tuple(names["tunnel"]) if "tunnel" in names else None,
        ports=None if ports is None else tuple(ports),
        connect=tuple(names["connect"]) if "connect" in names else None,
        domains=tuple(names["domain"]) if "domain" in names else None,
        read_only=read_only,
    )


def parse_limits(items: Iterable[str]) -> Limits:
    """Limits from texts, each one or several with commas. Raises UsageError."""
    return Limits(**parse_some_limits(items))


def parse_some_limits(items: Iterable[str]) -> dict[str, int]:
    """The same, but only those that are named."""
    found: dict[str, int] = {}
    for text in _split(items):
        name, _, value = text.partition("=")
        known = Limits.__struct_fields__
        if name not in known:
            raise UsageError(
                f'"{text}" is not a limit: tunnels=N, connections=N, requests=N/s or '
                f"bandwidth=SIZE/s{suggestion(name, known)}"
            )
        if name == "bandwidth":
            found[name] = _bandwidth(text, value)
            continue
        digits = value.removesuffix("/s") if name == "requests" else value
        if not (digits.isascii() and digits.isdigit() and int(digits[:9]) <= LIMIT_MAX):
            raise UsageError(f'"{text}": a limit is 0 to {LIMIT_MAX}')
        found[name] = int(digits)
    return found


def _bandwidth(text: str, value: str) -> int:
    try:
        size = parse_size(value.removesuffix("/s"))
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from None
    if size > BANDWIDTH_MAX:
        raise UsageError(f'"{text}": a bandwidth is 0 to {BANDWIDTH_MAX // 10**9}GB/s')
    return size


def _amount(name: str, value: int) -> str:
    if name == "requests":
        return f"{value}/s"
    if name != "bandwidth":
        return f"{value}"
    for unit, size in _UNITS:
        if value % size == 0:
            return f"{value // size}{unit}/s"
    return f"{value}/s"


def check(scopes: Scopes, kind: str) -> None:
    """Raises UsageError for scopes that say nothing about tokens of this kind, or are malformed."""
    for pattern in (*(scopes.devices or ()), *(scopes.tunnels or ())):
        if not _PATTERN.fullmatch(pattern):  # JSON Schema's "$" lets a line end pass
            raise UsageError(f'"{pattern}" is not a name or pattern, such as web-*')
    for pattern in scopes.connect or ():
        if not _CONNECT.fullmatch(pattern):
            raise UsageError(f'"{pattern}" is not DEVICE/TUNNEL or a pattern, such as pi/*')
    for pattern in scopes.domains or ():
        if not _DOMAIN.fullmatch(pattern):
            raise UsageError(f'"{pattern}" is not a domain or pattern, such as *.example.com')
    if kind == "device" and scopes.read_only:
        raise UsageError("read-only is a scope of admin tokens")
    if kind == "admin" and scopes != Scopes(read_only=scopes.read_only):
        raise UsageError("an admin token has no scope but read-only")
    for ports in scopes.ports or ():
        if ports.first > ports.last:
            raise UsageError(f'"{ports}": the first port is larger than the last')


def _matches(patterns: tuple[str, ...] | None, name: str) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def _split(items: Iterable[str]) -> list[str]:
    return [text for item in items for piece in item.split(",") if (text := piece.strip())]


def _ports(text: str) -> PortRange:
    match = _PORTS.fullmatch(text)
    if match is None:
        raise UsageError(f'"{text}" is not a port or a range such as 2000-2010')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise UsageError(f'"{text}": ports are 1 to 65535, the smaller one first')
    return PortRange(first, last)
