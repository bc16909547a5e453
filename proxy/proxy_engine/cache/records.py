"""Tokens and devices as they stand in Redis: what a login needs of them, and no more.

Of a token not when it was used, of a device only whether it may come. A secret never gets here,
and a digest of 256 random bits tells nobody what it is of.
"""

from __future__ import annotations

import msgspec

from proxy_engine.storage import Device, Token

_ABSENT = b""  # there is no such token
_tokens = msgspec.msgpack.Decoder(Token)
_devices = msgspec.msgpack.Decoder(Device)

# Nodes of two versions never read each other's records if these have other fields: a limit that
# one does not know would be no limit.
FORMAT = msgspec.json.encode(
    [msgspec.json.schema(kind) for kind in (Token, Device)], order="deterministic"
)


def pack_token(token: Token | None) -> bytes:
    if token is None:
        return _ABSENT
    return msgspec.msgpack.encode(msgspec.structs.replace(token, last_used_at=None))


def unpack_token(data: bytes) -> Token | None:
    """Raises ValueError."""
    return None if data == _ABSENT else _tokens.decode(data)


def pack_device(device: Device) -> bytes:
    return msgspec.msgpack.encode(
        Device(
            id=device.id,
            name=device.name,
            created_at=device.created_at,
            is_blocked=device.is_blocked,
            last_seen_at=None,
            kicked_at=device.kicked_at,
            certificate_names=device.certificate_names,
        )
    )


def unpack_device(data: bytes) -> Device:
    """Raises ValueError."""
    return _devices.decode(data)
