"""What hooks are told: one immutable struct for each event.

Times are seconds since the epoch, durations seconds, sizes bytes, unless a name says otherwise.
Ids are those of the store and of the engine; names are what people gave. What each field is stands
in its type: `proxy-engine hook events` and the reference on the guide site are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

import msgspec


def about(text: str) -> msgspec.Meta:
    """What a field is."""
    return msgspec.Meta(description=text)


_Device: TypeAlias = Annotated[str, about("name of the device")]
_DeviceId: TypeAlias = Annotated[int, about("its id in the store")]
_Token: TypeAlias = Annotated[str, about("name of its token; nobody has the secret")]
_TokenId: TypeAlias = Annotated[int, about("the token's id in the store")]
_Peer: TypeAlias = Annotated[
    str, about('where it comes from: "203.0.113.9:40112" or "[2001:db8::1]:40112"')
]
_Address: TypeAlias = Annotated[str, about("the device's, without port and brackets")]
_Number: TypeAlias = Annotated[int, about("of the link in its run, from 1")]
_Tunnel: TypeAlias = Annotated[str, about("name of the tunnel")]
_TunnelId: TypeAlias = Annotated[int, about("its id in the store")]
_Kind: TypeAlias = Annotated[str, about('"http", "tcp" or "udp"')]


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    at: Annotated[float, about("when it happened, seconds since the epoch")]


class ServerEvent(_Event, frozen=True, kw_only=True):
    """The server has its ports and its store, and begins to serve; or it ends."""

    url: Annotated[str, about("where agents and visitors find it")]
    admin: Annotated[str, about('its admin listener: "127.0.0.1:8081"')]
    domain: Annotated[str, about("tunnels are at TUNNEL.domain")]
    version: Annotated[str, about("of proxy-engine")]


class DeviceConnect(_Event, frozen=True, kw_only=True):
    """A device asks for a link. All else has been checked: token, scopes, certificate."""

    device: _Device
    device_id: _DeviceId
    token: _Token
    token_id: _TokenId
    peer: _Peer
    address: _Address
    certificate: Annotated[
        tuple[str, ...],
        about('names of its client certificate: "cn:...", "dns:...", "uri:..."; () without one'),
    ]
    number: _Number
    links: Annotated[int, about("that the device has already")]


class DeviceDisconnect(_Event, frozen=True, kw_only=True):
    """A link of a device has ended."""

    device: _Device
    device_id: _DeviceId
    token: _Token
    token_id: _TokenId
    peer: _Peer
    address: _Address
    number: _Number
    links: Annotated[int, about("that the device still has")]
    reason: Annotated[str, about('why: "closed", "ping_timeout", ... of docs/errors.md')]
    bytes_in: Annotated[int, about("bytes on the wire, from the device")]
    bytes_out: Annotated[int, about("bytes on the wire, to the device")]
    seconds: Annotated[float, about("seconds that it was up")]


class DevicePresence(_Event, frozen=True, kw_only=True):
    """A device has its first link, or has lost its last one."""

    device: _Device
    device_id: _DeviceId
    address: Annotated[str, about('the device\'s, without port and brackets; "": the server ends')]
    reason: Annotated[str, about('why it went, of docs/errors.md; "": it came')]


class TunnelOpen(_Event, frozen=True, kw_only=True):
    """A link wants to serve a tunnel. Its token allows the name."""

    tunnel: _Tunnel
    kind: _Kind
    port: Annotated[int | None, about("public one that the agent asks for; 0: any; None: none")]
    device: _Device
    device_id: _DeviceId
    token: _Token
    token_id: _TokenId
    address: _Address
    agent: Annotated[str, about('program and version, as it says: "proxy-engine/1.0"; may be ""')]
    platform: Annotated[str, about('the device\'s system, as it says; may be ""')]


class TunnelClose(_Event, frozen=True, kw_only=True):
    """A link serves a tunnel no more: it went, or its agent changed its mind."""

    tunnel: _Tunnel
    tunnel_id: _TunnelId
    kind: _Kind
    device: _Device
    links: Annotated[int, about("that still serve it")]


class TunnelPresence(_Event, frozen=True, kw_only=True):
    """A tunnel is served from now on, or by nobody any more."""

    tunnel: _Tunnel
    tunnel_id: _TunnelId
    kind: _Kind
    port: Annotated[int | None, about("public one; None: it has none")]
    device_id: Annotated[int, about("id in the store of the device that owns it")]


class Request(_Event, frozen=True, kw_only=True):
    """A request has ended; so has a connection to a TCP tunnel, or a visitor of a UDP one."""

    request_id: Annotated[str, about("X-Request-Id, as in the request log")]
    tunnel: Annotated[str | None, about("name of the tunnel; None: none was found")]
    device: Annotated[str | None, about("name of the device that answered; None: none did")]
    visitor: Annotated[str, about("address without port")]
    method: Annotated[str, about('of HTTP; "TCP" and "UDP" for those tunnels')]
    host: Annotated[str, about("that was asked for")]
    path: Annotated[str, about("and query, secrets taken out, at most 1024 bytes")]
    status: Annotated[int, about("that the visitor saw; 0: nothing was sent")]
    reason: Annotated[
        str, about('why the proxy answered or aborted, of docs/errors.md; "": it did not')
    ]
    bytes_in: Annotated[int, about("bytes from the visitor, heads included")]
    bytes_out: Annotated[int, about("bytes to the visitor")]
    seconds: Annotated[float, about("first byte of the request to last byte of the response")]
    first_byte_seconds: Annotated[float, about("to the first byte of the response; 0: none")]
    target_seconds: Annotated[float, about("of which it was the target's; 0: there was none")]
    flags: Annotated[int, about("LOG_* of proxy_engine_core.core, or-ed")]
    proxy_seconds: Annotated[
        float, about("of first_byte_seconds the proxy's: until the request was on its way")
    ] = 0.0
    link_seconds: Annotated[
        float, about("of first_byte_seconds the link's: its round trip; 0: not known")
    ] = 0.0
    trace_id: Annotated[str, about('of its traceparent, 32 hexadecimal digits; "": none')] = ""
    parent_id: Annotated[str, about("the span that the visitor named, 16 digits")] = ""
    span_id: Annotated[str, about('ours, that the target was told of; "": of the parent')] = ""
    trace_flags: Annotated[int, about("of its trace; 1: sampled")] = 0


class TunnelData(_Event, frozen=True, kw_only=True):
    """Bytes of a tunnel since the last time, as the engine counts them: while they pass."""

    tunnel: _Tunnel
    tunnel_id: _TunnelId
    kind: _Kind
    bytes_in: Annotated[int, about("bytes from visitors")]
    bytes_out: Annotated[int, about("bytes to visitors")]
    total_in: Annotated[int, about("bytes from visitors since the server started")]
    total_out: Annotated[int, about("bytes to visitors since the server started")]
    seconds: Annotated[float, about("since it was last told, or the server started")]


class Failure(_Event, frozen=True, kw_only=True):
    """Something failed: hooks, or the server itself."""

    source: Annotated[str, about('what failed: "hook", "store", "tls", ...; the table below')]
    where: Annotated[str, about('in what: of hooks the event, "on_request"; else see there')]
    error: Annotated[
        BaseException,
        about("of hooks an ExceptionGroup of HookError, one for each that failed"),
    ]
    message: Annotated[str, about("what the log says; of hooks empty")] = ""
    fields: Annotated[
        Mapping[str, object], about("of that line of the log: the file, the port, the device")
    ] = msgspec.field(default_factory=dict)
    repeats: Annotated[
        int, about("of the same source and where, since the last one, that were not told")
    ] = 0
