"""What hooks are told: one immutable struct for each event.

Times are seconds since the epoch, durations seconds, sizes bytes, unless a name says otherwise.
Ids are those of the store and of the engine; names are what people gave.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    at: float  # when it happened


class ServerEvent(_Event, frozen=True, kw_only=True):
    """The server has its ports and its store, and begins to serve; or it ends."""

    url: str  # where agents and visitors find it
    admin: str  # "127.0.0.1:8081"
    domain: str  # tunnels are at TUNNEL.domain
    version: str  # of proxy-engine


class DeviceConnect(_Event, frozen=True, kw_only=True):
    """A device asks for a link. All else has been checked: token, scopes, certificate."""

    device: str
    device_id: int
    token: str  # the name of its token; nobody has the secret
    token_id: int
    peer: str  # "203.0.113.9:40112" or "[2001:db8::1]:40112"
    address: str  # the same without port and brackets
    certificate: tuple[str, ...]  # names of its client certificate: "cn:...", "dns:...", "uri:..."
    number: int  # of the link in its run, from 1
    links: int  # the device has already


class DeviceDisconnect(_Event, frozen=True, kw_only=True):
    """A link of a device has ended."""

    device: str
    device_id: int
    token: str
    token_id: int
    peer: str
    address: str
    number: int
    links: int  # the device still has
    reason: str  # "closed", "ping_timeout", ...: docs/errors.md
    bytes_in: int  # on the wire, from the device
    bytes_out: int  # ... to it
    seconds: float  # it was up


class DevicePresence(_Event, frozen=True, kw_only=True):
    """A device has its first link, or has lost its last one."""

    device: str
    device_id: int
    address: str  # "" when the server ends
    reason: str  # why it went; "" when it came


class TunnelOpen(_Event, frozen=True, kw_only=True):
    """A link wants to serve a tunnel. Its token allows the name."""

    tunnel: str
    kind: str  # "http", "tcp" or "udp"
    port: int | None  # public, that the agent asks for; 0: any; None: none
    device: str
    device_id: int
    token: str
    token_id: int
    address: str  # the device's
    agent: str  # program and version, as it says: "proxy-engine/1.0"; may be ""
    platform: str  # ... and its system


class TunnelClose(_Event, frozen=True, kw_only=True):
    """A link serves a tunnel no more: it went, or its agent changed its mind."""

    tunnel: str
    tunnel_id: int
    kind: str
    device: str
    links: int  # that still serve it


class TunnelPresence(_Event, frozen=True, kw_only=True):
    """A tunnel is served from now on, or by nobody any more."""

    tunnel: str
    tunnel_id: int
    kind: str
    port: int | None  # public
    device_id: int


class Request(_Event, frozen=True, kw_only=True):
    """A request has ended; so has a connection to a TCP tunnel, or a visitor of a UDP one."""

    request_id: str
    tunnel: str | None  # None: no tunnel was found
    device: str | None
    visitor: str  # address without port
    method: str  # "TCP" and "UDP" for those tunnels
    host: str
    path: str  # and query, secrets taken out, at most 1024 bytes
    status: int  # that the visitor saw; 0: nothing was sent
    reason: str  # "", or why the proxy answered or aborted: docs/errors.md
    bytes_in: int  # from the visitor, heads included
    bytes_out: int  # to the visitor
    seconds: float  # first byte of the request to last byte of the response
    first_byte_seconds: float  # ... to the first byte of the response; 0: none
    target_seconds: float  # ... of which it was the target's
    flags: int  # LOG_* of proxy_engine_core.core
    proxy_seconds: float = 0.0  # ... here, until the request was on its way to the device
    link_seconds: float = 0.0  # ... the round trip of the link; 0: not known
    trace_id: str = ""  # of its traceparent, 32 hexadecimal digits; "": none
    parent_id: str = ""  # the span that the visitor named, 16 digits
    span_id: str = ""  # ours, that the target was told of instead; "": it was not
    trace_flags: int = 0  # 1: sampled


class TunnelData(_Event, frozen=True, kw_only=True):
    """Bytes of a tunnel since the last time, as the engine counts them: while they pass."""

    tunnel: str
    tunnel_id: int
    kind: str
    bytes_in: int  # from visitors
    bytes_out: int  # to visitors
    total_in: int  # ... since the server started
    total_out: int
    seconds: float  # since it was last told, or the server started


class Failure(_Event, frozen=True, kw_only=True):
    """Something failed: hooks, or the server's store."""

    source: Literal["hook", "store", "server"]
    where: str  # the event of hooks: "on_request"; else what was tried
    error: BaseException  # of hooks an ExceptionGroup of HookError, one for each that failed
