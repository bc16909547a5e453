"""Control records: JSON objects on stream 1, told apart by "type".

The engine frames them (a 32-bit length, big-endian, at most 64 KiB); this is what is in
them. Unknown fields are ignored, so either side can be newer. See docs/protocol.md.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

RECORD_TUNNELS_MAX = 128  # in one record: the longest answer to them must fit one as well
# Of one link. The engine keeps 1 MiB of records for a peer that is slow to read them.
TUNNELS_MAX = 2048


class BadRecord(Exception):
    """A record that can not be used. code goes into the "error" answer."""

    def __init__(self, code: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal  # not even JSON: nothing after it can be trusted


class TunnelSpec(msgspec.Struct):
    name: str
    kind: str = "http"
    port: int | None = None  # tcp, udp: the public one, 0 for any; None: private, of tcp


class PublicTunnel(msgspec.Struct):
    name: str
    kind: str
    url: str


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


class Drain(msgspec.Struct, tag_field="type", tag="drain"):
    """Either way: I am about to end; what is in flight may finish, send nothing new."""


class Links(msgspec.Struct, tag_field="type", tag="links"):
    """Server to agent: so many links this run should have now."""

    wanted: int


class Error(msgspec.Struct, tag_field="type", tag="error"):
    """Either way: something about this link, for the log. Never answered."""

    code: str
    message: str = ""


class _Tag(msgspec.Struct):
    type: str


AgentRecord = Register | Drain | Error
ServerRecord = Registered | Drain | Links | Error

_encoder = msgspec.json.Encoder()
_tag = msgspec.json.Decoder(_Tag)
_from_agent: msgspec.json.Decoder[AgentRecord] = msgspec.json.Decoder(AgentRecord)
_from_server: msgspec.json.Decoder[ServerRecord] = msgspec.json.Decoder(ServerRecord)
_T = TypeVar("_T")


def encode(record: AgentRecord | ServerRecord) -> bytes:
    return _encoder.encode(record)


def encode_register(record: Register) -> list[bytes]:
    """The records that say it: several when there are many tunnels."""
    size = RECORD_TUNNELS_MAX
    parts = [record.tunnels[at : at + size] for at in range(0, len(record.tunnels), size)] or [[]]
    return [
        encode(msgspec.structs.replace(record, tunnels=part, more=number < len(parts)))
        for number, part in enumerate(parts, 1)
    ]


def encode_registered(record: Registered) -> list[bytes]:
    """Likewise."""
    items = [*record.tunnels, *record.refused]
    size = RECORD_TUNNELS_MAX
    parts = [items[at : at + size] for at in range(0, len(items), size)] or [[]]
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


def decode_from_agent(data: bytes) -> AgentRecord:
    return _decode(_from_agent, {"register", "drain", "error"}, data)


def decode_from_server(data: bytes) -> ServerRecord:
    return _decode(_from_server, {"registered", "drain", "links", "error"}, data)


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
