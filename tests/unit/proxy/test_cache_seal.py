from __future__ import annotations

import pytest

from proxy_engine import grants
from proxy_engine.cache.records import (
    FORMAT,
    pack_device,
    pack_token,
    unpack_device,
    unpack_token,
)
from proxy_engine.cache.seal import Forged, Sealer
from proxy_engine.storage import Device, Token

KEY, NOW, LATER = bytes(range(32)), b"g" * 16, b"h" * 16

TOKEN = Token(
    id=7,
    name="pi",
    kind="device",
    digest=b"d" * 32,
    device_id=3,
    device="pi",
    is_blocked=False,
    created_at=1.0,
    expires_at=9.0,
    revoked_at=None,
    last_used_at=5.0,
    old_digest=b"o" * 32,
    old_expires_at=4.0,
    scopes=grants.parse_scopes(["tunnel=web-*", "port=2000-2010"]),
    limits=grants.Limits(tunnels=5),
)


def test_a_value_is_good_for_its_name_and_generation_only() -> None:
    sealer = Sealer(KEY, FORMAT)
    name, other = sealer.name("token", b"a"), sealer.name("token", b"b")
    value = sealer.seal(name, NOW, b"data")
    assert sealer.open(name, NOW, value) == b"data"
    assert sealer.open(name, LATER, value) is None
    with pytest.raises(Forged):
        sealer.open(other, NOW, value)
    with pytest.raises(Forged):  # brought back under the generation that it is not of
        sealer.open(name, LATER, LATER + value[16:])


def test_no_bit_of_a_value_can_be_changed() -> None:
    sealer = Sealer(KEY, FORMAT)
    name = sealer.name("token", b"a")
    value = sealer.seal(name, NOW, b"data")
    for bit in range(8 * len(value)):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Forged):
            sealer.open(name, NOW, bytes(changed))
    for size in range(len(value)):
        with pytest.raises(Forged):
            sealer.open(name, NOW, value[:size])
    with pytest.raises(Forged):
        sealer.open(name, NOW, value + b"x")


def test_other_stores_and_other_versions_have_values_of_their_own() -> None:
    sealer, foreign, newer = Sealer(KEY, b"1"), Sealer(bytes(32), b"1"), Sealer(KEY, b"2")
    name = sealer.name("token", b"a")
    assert foreign.name("token", b"a").split(":")[1] != name.split(":")[1]
    assert newer.name("token", b"a") == name
    for other in (foreign, newer):
        with pytest.raises(Forged):
            other.open(name, NOW, sealer.seal(name, NOW, b"data"))


def test_names_tell_nothing_of_what_they_are_about() -> None:
    sealer = Sealer(KEY, FORMAT)
    name = sealer.name("device", b"front-door")
    assert "front-door" not in name and b"front-door".hex() not in name
    assert name.startswith("proxy-engine:") and name != sealer.name("token", b"front-door")
    assert name == sealer.name("device", b"front-door")


def test_a_token_and_that_there_is_none() -> None:
    found = unpack_token(pack_token(TOKEN))
    assert found is not None and found.last_used_at is None
    assert found.scopes == TOKEN.scopes and found.limits == TOKEN.limits
    assert (found.digest, found.old_digest) == (TOKEN.digest, TOKEN.old_digest)
    assert unpack_token(pack_token(None)) is None


def test_of_a_device_only_what_a_login_needs() -> None:
    device = Device(
        id=3,
        name="pi",
        created_at=1.0,
        is_blocked=True,
        last_seen_at=2.0,
        labels={"site": "secret-lab"},
        address="203.0.113.9",
        certificate_names=("cn:serial 7",),
    )
    packed = pack_device(device)
    assert b"secret-lab" not in packed and b"203.0.113.9" not in packed
    found = unpack_device(packed)
    assert (found.id, found.name, found.is_blocked) == (3, "pi", True)
    assert found.certificate_names == ("cn:serial 7",)
