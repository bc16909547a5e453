"""Control records: JSON objects on stream 1, told apart by "type".

The engine frames them (a 32-bit length, big-endian, at most 64 KiB); this is what is in
them. Unknown fields are ignored, so either side can be newer. See docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

RECORD_TUNNELS_MAX = 128  # in one record: the longest answer to them must fit one as well
RECORD_FILLED = 60_000  # bytes of tunnels in one record, unless one alone has more
# Bytes of the records that make one "register", which wait together for the last of them.
REGISTER_SIZE_MAX = 1 << 20
# Of one link. The engine keeps 1 MiB of records for a peer that is slow to read them.
TUNNELS_MAX = 2048


class BadRecord(Exception):
    """A record that can not be used. code goes into the "error" answer."""

    def __init__(self, code: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal  # not even JSON: nothing after it can be trusted


class TunnelSpec(msgspec.Struct, omit_defaults=True):
    name: str
    kind: str = "http"
    port: int | None = None  # tcp, udp: the public one, 0 for any; None: private, of tcp
    domains: list[str] = []  # http: of its own
    options: dict[str, Any] = {}  # tunnels.options.Options; one the server does not know is refused
    moved: bool = False  # to another target since this link last registered it


class PublicTunnel(msgspec.Struct, omit_defaults=True):
    name: str
    kind: str
    url: str
    domains: list[str] = []  # URLs of those it has besides
    disabled: bool = False  # nobody gets through, for now


class RefusedTunnel(msgspec.Struct):
    name: str
    code: str
    message: str


class Register(msgspec.Struct, tag_field="type", tag="register"):
    """Agent to server: these, and only these, are the tunnels this link serves."""

    tunnels: list[TunnelSpec]
    agent: str = ""
    platform: str = ""
    more: bool = False  # the list goes on in the next one; the last is answered


class Registered(msgspec.Struct, tag_field="type", tag="registered"):
    """Server to agent: the answer to "register"."""

    tunnels: list[PublicTunnel] = []
    refused: list[RefusedTunnel] = []
    more: bool = False  # the answer goes on in the next one


class Configure(msgspec.Struct, tag_field="type", tag="configure"):
    """Server to agent: this tunnel's target is from now on this one; "": your own."""

    id: int  # of the answer
    tunnel: str
    target: str


class Configured(msgspec.Struct, tag_field="type", tag="configured", omit_defaults=True):
    """Agent to server: the answer. code == "": it is done."""

    id: int
    code: str = ""
    message: str = ""


class Drain(msgspec.Struct, tag_field="type", tag="drain"):
    """Either way: I am about to end; what is in flight may finish, send nothing new."""


class Links(msgspec.Struct, tag_field="type", tag="links"):
    """Server to agent: so many links this run should have now."""

    wanted: int


class Error(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True):
    """Either way: something about this link, for the log. Never answered."""

    code: str
    message: str = ""
    tunnel: str = ""  # that it is about


class _Tag(msgspec.Struct):
    type: str


AgentRecord = Register | Configured | Drain | Error
ServerRecord = Registered | Configure | Drain | Links | Error

_encoder = msgspec.json.Encoder()
_tag = msgspec.json.Decoder(_Tag)
_from_agent: msgspec.json.Decoder[AgentRecord] = msgspec.json.Decoder(AgentRecord)
_from_server: msgspec.json.Decoder[ServerRecord] = msgspec.json.Decoder(ServerRecord)
_T = TypeVar("_T")


def encode(record: AgentRecord | ServerRecord) -> bytes:
    return _encoder.encode(record)


def encode_register(record: Register) -> list[bytes]:
    """The records that say it: several when there are many tunnels, or they have much to say."""
    parts = _parts(record.tunnels)
    return [
        encode(msgspec.structs.replace(record, tunnels=part, more=number < len(parts)))
        for number, part in enumerate(parts, 1)
    ]


def encode_registered(record: Registered) -> list[bytes]:
    """Likewise."""
    items: list[PublicTunnel | RefusedTunnel] = [*record.tunnels, *record.refused]
    parts = _parts(items)
    return [
        encode(
            Registered(
                [item for item in part if isinstance(item, PublicTunnel)],
                [item for item in part if isinstance(item, RefusedTunnel)],
                number < len(parts),
            )
        )
        for number, part in enumerate(parts, 1)
    ]


def _parts(items: Sequence[_T]) -> list[list[_T]]:
    parts: list[list[_T]] = [[]]
    size = 0
    for item in items:
        size += len(_encoder.encode(item))
        if parts[-1] and (size > RECORD_FILLED or len(parts[-1]) == RECORD_TUNNELS_MAX):
            parts.append([])
            size = len(_encoder.encode(item))
        parts[-1].append(item)
    return parts


def decode_from_agent(data: bytes) -> AgentRecord:
    return _decode(_from_agent, {"register", "configured", "drain", "error"}, data)


def decode_from_server(data: bytes) -> ServerRecord:
    return _decode(_from_server, {"registered", "configure", "drain", "links", "error"}, data)


def _decode(decoder: msgspec.json.Decoder[_T], types: set[str], data: bytes) -> _T:
    try:
        tag = _tag.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord("bad_record", f"not a control record: {error}", fatal=True) from None
    if tag.type not in types:
        raise BadRecord("unknown_record", f'unknown record type "{tag.type[:64]}"')
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord("bad_record", f'"{tag.type}": {error}') from None
