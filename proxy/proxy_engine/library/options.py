"""What a client and its tunnels are given, and what a client tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from proxy_engine.errors import ProxyEngineError


@dataclass(frozen=True)
class ClientEvent:
    """What happened to a client or one of its tunnels.

    kind: "connected" - a link serves; "disconnected" - none does, it is tried again; "failed" -
    it is not; "tunnel_opened", "tunnel_closed" - for `error`, if there is one.
    """

    kind: Literal["connected", "disconnected", "failed", "tunnel_opened", "tunnel_closed"]
    tunnel: str = ""
    error: ProxyEngineError | None = None


class ClientOptions(TypedDict, total=False):
    """Settings of `connect` that a Client takes; docs/configuration.md has them all."""

    token_file: str
    device: str
    transport: Literal["auto", "ws", "tcp"]
    links: int
    pool: int
    proxy: str
    ca: str
    crl: str
    pin: Sequence[str]
    server_name: str
    cert: str
    key: str
    tls_min_version: Literal["1.2", "1.3"]
    allow_target: Sequence[str]
    workers: int
    engine: dict[str, int]


class TlsTarget(TypedDict, total=False):
    """Of a target that is https://."""

    target_ca: str
    target_server_name: str
    target_insecure: bool


class HttpOptions(TlsTarget, total=False):
    """docs/tunnels.md says what each does."""

    domains: Sequence[str]
    allow: Sequence[str]
    deny: Sequence[str]
    basic_auth: Sequence[str]
    realm: str
    request_headers: Sequence[str]
    response_headers: Sequence[str]
    strip_prefix: str
    host_header: str
    server_timing: bool


class PortOptions(TypedDict, total=False):
    allow: Sequence[str]
    deny: Sequence[str]
