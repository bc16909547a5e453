"""`[[tunnels]]` of the agent's file: everything about one tunnel in one table."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec

from proxy_engine.values import (
    LABEL,
    HttpTarget,
    Profile,
    parse_address,
    parse_http_target,
    parse_target,
)

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class TunnelConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
                   forbid_unknown_fields=True):  # fmt: skip
    """As it stands in the file; agent/tunnels.py makes options of it."""

    name: str
    target: str  # HOST:PORT, but of UDP unix:/PATH too, of HTTP https://HOST:PORT
    kind: Literal["http", "tcp", "udp"] = "http"
    port: Port | None = None  # public, of a TCP or UDP tunnel; 0: any, None: private (TCP)
    proxy_protocol: bool = False
    domains: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None
    basic_auth: tuple[str, ...] = ()  # USER:PASSWORD
    basic_auth_file: str = ""
    realm: str = ""
    request_headers: tuple[str, ...] | None = None  # option_texts.parse_headers()
    response_headers: tuple[str, ...] | None = None
    strip_prefix: str | None = None
    host_header: str | None = None
    profile: Profile | None = None  # of an HTTP or TCP tunnel
    server_timing: bool | None = None

    def where(self) -> HttpTarget:
        """Its target. Raises ValueError."""
        if self.kind == "http":
            return parse_http_target(self.target)
        if self.kind == "tcp":
            return HttpTarget(parse_target(self.target))
        return HttpTarget(parse_address(self.target, port_min=1))


def to_tunnels(value: Any) -> tuple[TunnelConfig, ...]:
    """Of a list of tables, or in a variable the same as JSON. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
    try:
        tunnels = msgspec.convert(value, tuple[TunnelConfig, ...])
    except msgspec.ValidationError as error:
        from proxy_engine.validation import explain

        raise ValueError(explain(error, TunnelConfig.__struct_fields__)) from None
    for tunnel in tunnels:
        if not LABEL.fullmatch(tunnel.name):
            raise ValueError(f'"{tunnel.name}" is not a tunnel name: a-z, 0-9 and inner "-"')
        tunnel.where()
        if tunnel.kind != "tcp" and tunnel.proxy_protocol:
            raise ValueError(f"{tunnel.name}: proxy_protocol is of TCP tunnels")
        if tunnel.kind == "http" and tunnel.port is not None:
            raise ValueError(f"{tunnel.name}: port is of TCP and UDP tunnels")
        if tunnel.kind == "udp" and tunnel.port is None:
            raise ValueError(f"{tunnel.name}: a UDP tunnel has a public port, 0 for any")
    return tunnels


def shown(tunnel: TunnelConfig, redacted: str) -> dict[str, Any]:
    """Without its passwords."""
    found: dict[str, Any] = msgspec.to_builtins(tunnel)
    return {**found, "basic_auth": redacted} if tunnel.basic_auth else found
