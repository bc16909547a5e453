"""The tunnels of one run of the agent, of everything that flags, variables and the file say.

Three ways to say it, which add up: `http`, `tcp` and `udp` for name and target alone, `[[tunnels]]`
of the file for everything, and options such as `allow` beside them, "[NAME=]VALUE", for one tunnel
or, without a name, for all HTTP tunnels of the run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxy_engine.control import TUNNELS_MAX, TunnelSpec
from proxy_engine.errors import UsageError, error_text
from proxy_engine.settings.setting_values import to_boolean
from proxy_engine.tunnels.option_texts import parse_headers, parse_users
from proxy_engine.tunnels.options import NONE, Headers, Options, basic_auth, check
from proxy_engine.values import PROFILES, Address, HttpTarget, PortTunnel

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine.settings.tunnel_config import TunnelConfig

REWRITE = "rewrite"  # as host_header: the target's own


class AgentTunnel(NamedTuple):
    name: str
    kind: str
    port: int | None  # public, of a TCP or UDP tunnel
    target: Address
    has_proxy_header: bool = False  # its connections begin with a PROXY protocol header
    domains: tuple[str, ...] = ()
    options: Options = NONE
    is_tls: bool = False  # the target speaks it

    def shown_target(self) -> str:
        return str(HttpTarget(self.target, self.is_tls))

    def spec(self) -> TunnelSpec:
        """As it is registered."""
        return TunnelSpec(
            self.name,
            self.kind,
            self.port,
            list(self.domains),
            msgspec.to_builtins(self.options),
        )


def tunnels_of(
    chosen: Settings, token: str, made: dict[TunnelConfig, AgentTunnel] | None = None
) -> list[AgentTunnel]:
    """Raises UsageError.

    Args:
        made: those of `tunnels` that were made before; what is made now is added.
    """
    made = {} if made is None else made
    found = [
        AgentTunnel(name, "http", None, target.address, is_tls=target.is_tls)
        for name, target in chosen.http.items()
    ]
    found += _tcp(chosen, token)
    found += [
        AgentTunnel(_name("udp", tunnel, token), "udp", tunnel.port, tunnel.target)
        for tunnel in chosen.udp.values()
    ]
    for each in chosen.tunnels:
        with _place(f"tunnel {each.name}"):
            made[each] = made.get(each) or _of_file(each)
            found.append(made[each])
    for name, count in Counter(tunnel.name for tunnel in found).items():
        if count > 1:
            raise UsageError(f'tunnel "{name}" is given twice')
    if len(found) > TUNNELS_MAX:
        raise UsageError(f"{len(found)} tunnels; an agent has at most {TUNNELS_MAX}")
    return _with_flags(chosen, found)


def _tcp(chosen: Settings, token: str) -> Iterator[AgentTunnel]:
    for word in chosen.proxy_protocol:
        if not any(_is_meant(word, key, tunnel) for key, tunnel in chosen.tcp.items()):
            raise UsageError(f'--proxy-protocol: there is no TCP tunnel "{word}"')
    for key, tunnel in chosen.tcp.items():
        wants = any(_is_meant(word, key, tunnel) for word in chosen.proxy_protocol)
        yield AgentTunnel(_name("tcp", tunnel, token), "tcp", tunnel.port, tunnel.target, wants)


def _name(kind: str, tunnel: PortTunnel, token: str) -> str:
    """One without any has the same at each start, so that it gets the same port, and another
    than other devices'."""
    if tunnel.name:
        return tunnel.name
    return f"{kind}-" + hashlib.blake2s(f"{token} {tunnel.target}".encode()).hexdigest()[:12]


def _is_meant(word: str, key: str, tunnel: PortTunnel) -> bool:
    return word in (key, tunnel.name, str(tunnel.port))


def _of_file(config: TunnelConfig) -> AgentTunnel:
    """Raises UsageError, ValueError."""
    target, is_tls = config.where()
    users = list(config.basic_auth)
    if config.basic_auth_file:
        users += read_users(config.basic_auth_file)
    options = Options(
        allow=config.allow,
        deny=config.deny,
        basic_auth=basic_auth(parse_users(users), config.realm) if users else None,
        request_headers=_headers(config.request_headers),
        response_headers=_headers(config.response_headers),
        strip_prefix=config.strip_prefix,
        host_header=_host(config.host_header, target),
        profile=config.profile,
        server_timing=config.server_timing,
    )
    return AgentTunnel(
        config.name,
        config.kind,
        config.port,
        target,
        config.proxy_protocol,
        config.domains,
        check(options, config.kind),
        is_tls,
    )


def _with_flags(chosen: Settings, tunnels: list[AgentTunnel]) -> list[AgentTunnel]:
    """What the options beside them say."""
    found = {tunnel.name: tunnel for tunnel in tunnels}
    http = [tunnel.name for tunnel in tunnels if tunnel.kind == "http"]
    streams = [tunnel.name for tunnel in tunnels if tunnel.kind != "udp"]
    users = [line for line in chosen.basic_auth.splitlines() if line]
    if chosen.basic_auth_file:
        users += read_users(chosen.basic_auth_file)

    def sort(
        flag: str, items: Iterable[str], meant: list[str] = http, *, one: bool = False
    ) -> dict[str, list[str]]:
        """The values by the tunnels they are for: those meant, where none is named."""
        values: dict[str, list[str]] = {}
        for item in items:
            name, equals, value = item.partition("=")
            if equals and name in found:
                values.setdefault(name, []).append(value)
                continue
            if not http and meant is http:
                raise UsageError(f"--{flag}: there is no HTTP tunnel; give NAME=...")
            if not meant or (one and len(meant) > 1):
                raise UsageError(f"--{flag}: of which tunnel? give NAME={item}")
            for name in meant:
                values.setdefault(name, []).append(item)
        return values

    def change(flag: str, items: Iterable[str], make: Callable[[list[str], Address], object],
               option: str = "", meant: list[str] = http) -> None:  # fmt: skip
        for name, values in sort(flag, items, meant).items():
            tunnel = found[name]
            with _place(f"--{flag}"):
                value = make(values, tunnel.target)
                given = {option or flag.replace("-", "_"): value}
                options = msgspec.structs.replace(tunnel.options, **given)
                found[name] = tunnel._replace(options=check(options, tunnel.kind))

    for name, values in sort("domain", chosen.domains, one=True).items():
        if found[name].kind != "http":
            raise UsageError(f'--domain: "{name}" is no HTTP tunnel')
        domains = tuple(dict.fromkeys((*found[name].domains, *values)))
        found[name] = found[name]._replace(domains=domains)
    change("allow", chosen.allow, lambda values, _: tuple(values))
    change("deny", chosen.deny, lambda values, _: tuple(values))
    change("basic-auth", users, lambda values, _: basic_auth(parse_users(values)))
    change("request-header", chosen.request_header, _parsed_headers, "request_headers")
    change("response-header", chosen.response_header, _parsed_headers, "response_headers")
    change("strip-prefix", chosen.strip_prefix, lambda values, _: values[-1])
    change("profile", chosen.profile, lambda values, _: _profile(values[-1]), meant=streams)
    change("server-timing", chosen.server_timing, lambda values, _: to_boolean(values[-1]))
    change("host-header", chosen.host_header, lambda values, target: _host(values[-1], target))
    return list(found.values())


def _parsed_headers(values: list[str], target: Address) -> Headers:
    return parse_headers(values)


def _profile(value: str) -> str:
    if value not in PROFILES:
        raise ValueError(f'there is no profile "{value}", only {", ".join(PROFILES)}')
    return value


def _headers(items: tuple[str, ...] | None) -> Headers | None:
    return None if items is None else parse_headers(items)


def _host(host: str | None, target: Address) -> str | None:
    if host != REWRITE:
        return host
    return "localhost" if target.is_unix else str(target)


def read_users(file: str) -> list[str]:
    """The lines of USER:PASSWORD. Raises UsageError."""
    try:
        with open(file, encoding="utf-8") as stream:
            return [line for line in stream.read().splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"basic auth file {file}: {error_text(error)}") from None


@contextmanager
def _place(where: str) -> Iterator[None]:
    """Say where something is wrong."""
    try:
        yield
    except (ValueError, UsageError) as error:
        raise UsageError(f"{where}: {error}") from None
