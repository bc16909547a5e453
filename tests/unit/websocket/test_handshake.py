"""The opening handshake, RFC 6455 section 4."""

from __future__ import annotations

import base64

import pytest

from proxy_engine_core.websocket.handshake import (
    HandshakeError,
    accept_key,
    check_upgrade,
    new_key,
    verify_accept,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def request(**changes: bytes | None) -> list[tuple[str, bytes]]:
    fields: dict[str, bytes | None] = {
        "host": b"example.com",
        "upgrade": b"websocket",
        "connection": b"Upgrade",
        "sec-websocket-key": KEY.encode(),
        "sec-websocket-version": b"13",
    }
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    return [(name, value) for name, value in fields.items() if value is not None]


def refusal(fields: list[tuple[str, bytes]]) -> int:
    with pytest.raises(HandshakeError) as caught:
        check_upgrade(fields)
    assert caught.value.reason == str(caught.value) != ""
    return caught.value.status


def test_the_key_of_the_rfc_has_the_accept_of_the_rfc() -> None:
    assert accept_key(KEY) == ACCEPT
    assert verify_accept(KEY, ACCEPT)
    assert verify_accept(KEY, f" {ACCEPT}\t")
    assert not verify_accept(KEY, ACCEPT.lower())
    assert not verify_accept(KEY, "")


def test_a_new_key_is_16_fresh_bytes_that_a_server_accepts() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(base64.b64decode(key)) for key in keys} == {16}
    for key in keys:
        assert check_upgrade(request(sec_websocket_key=key.encode())) == key


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upgrade": b"WebSocket"},
        {"upgrade": b"h2c, websocket"},
        {"connection": b"keep-alive, UPGRADE"},
        {"sec_websocket_key": b"  " + KEY.encode() + b" "},
        {"sec_websocket_version": b"13 "},
    ],
)
def test_a_valid_request_gives_its_key(changes: dict[str, bytes | None]) -> None:
    assert check_upgrade(request(**changes)) == KEY


def test_tokens_may_be_spread_over_several_fields() -> None:
    fields = [*request(connection=b"keep-alive"), ("connection", b"upgrade")]
    assert check_upgrade(fields) == KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"upgrade": None},
        {"upgrade": b"proxy-engine-yamux"},
        {"upgrade": b"websocket2"},
        {"connection": None},
        {"connection": b"close"},
        {"sec_websocket_version": b"8"},
        {"sec_websocket_version": b""},
        {"sec_websocket_version": b"13, 8"},
    ],
)
def test_another_protocol_or_version_is_426(changes: dict[str, bytes | None]) -> None:
    assert refusal(request(**changes)) == 426


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"dGhlIHNhbXBsZSBub25jZQ",
        b"dGhlIHNhbXBsZSBub25jZQ=",
        b"dGhlIHNhbXBsZSBub25jZQ==\x80",
        b"dGhlIHNhbXBsZSBub25jZ-==",
        b"c2hvcnQ=",
        base64.b64encode(bytes(15)),
        base64.b64encode(bytes(17)),
        base64.b64encode(bytes(18)),
        b"\xc3\xa9" * 12,
    ],
)
def test_a_key_that_is_not_16_bytes_in_base64_is_400(key: bytes | None) -> None:
    assert refusal(request(sec_websocket_key=key)) == 400


def test_fields_that_must_be_single_are_400_when_missing_or_repeated() -> None:
    assert refusal(request(sec_websocket_version=None)) == 400
    assert refusal([*request(), ("sec-websocket-version", b"13")]) == 400
    assert refusal([*request(), ("sec-websocket-key", KEY.encode())]) == 400
