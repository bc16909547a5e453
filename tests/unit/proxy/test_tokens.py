from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from proxy_engine import tokens
from proxy_engine.errors import UsageError
from proxy_engine.grants import Limits, Scopes
from proxy_engine.storage import NameTaken
from proxy_engine.storage.sqlite import SqliteStore


def test_a_secret_is_256_random_bits_in_url_safe_text() -> None:
    first, second = tokens.new_secret(), tokens.new_secret()
    assert first != second
    assert first.startswith("pe_")
    assert len(first) == 3 + 43


async def test_only_the_digest_is_stored(store: SqliteStore, tmp_path: Path) -> None:
    secret, token = await tokens.create(store, name="pi", now=1.0)
    assert token.digest == hashlib.sha256(secret.encode()).digest()
    await store.close()
    assert secret.encode() not in (tmp_path / "db").read_bytes()


async def test_a_token_is_found_by_its_secret_only(store: SqliteStore) -> None:
    secret, token = await tokens.create(store, name="pi", now=1.0)
    assert await tokens.find(store, secret) == token
    wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for guess in (wrong, "", "pe_", secret + "x", "pi", secret.upper()):
        assert await tokens.find(store, guess) is None


async def test_a_device_is_named_like_its_token_unless_said_otherwise(store: SqliteStore) -> None:
    _, first = await tokens.create(store, name="pi", now=1.0)
    _, second = await tokens.create(store, name="pi-spare", device="pi", now=1.0)
    assert first.device == second.device == "pi"
    assert first.device_id == second.device_id
    _, admin = await tokens.create(store, name="root", kind="admin", now=1.0)
    assert admin.device_id is None


async def test_names_are_unique_and_checked(store: SqliteStore) -> None:
    await tokens.create(store, name="pi", now=1.0)
    with pytest.raises(NameTaken):
        await tokens.create(store, name="pi", now=1.0)
    for name in ("", "a b", "-a", "a\n", "x" * 64):
        with pytest.raises(UsageError):
            await tokens.create(store, name=name, now=1.0)
    with pytest.raises(UsageError):
        await tokens.create(store, name="a", kind="admin", device="b", now=1.0)


async def test_expired_and_revoked_tokens_open_nothing(store: SqliteStore) -> None:
    secret, token = await tokens.create(store, name="pi", now=100.0, expires_in=10.0)
    assert tokens.refusal(token, 109.9) is None
    assert tokens.refusal(token, 110.0) == "expired_token"
    assert await store.token_revoke("pi", 105.0)
    assert tokens.refusal(await tokens.find(store, secret), 106.0) == "revoked_token"
    assert not await store.token_revoke("pi", 107.0)
    assert not await store.token_revoke("other", 107.0)
    assert tokens.refusal(None, 0.0) == "unknown_token"


async def test_a_rotated_secret_is_good_for_a_while_and_the_new_one_at_once(
    store: SqliteStore,
) -> None:
    old, token = await tokens.create(store, name="pi", now=100.0, expires_in=1000.0)
    made = await tokens.rotate(store, "pi", now=200.0, overlap=60.0)
    assert made is not None
    new, rotated = made
    assert (rotated.id, rotated.device_id) == (token.id, token.device_id)
    for secret, now, reason in [
        (old, 259.0, None), (new, 259.0, None), (old, 260.0, "expired_token"), (new, 261.0, None),
        (new, 1100.0, "expired_token"),
    ]:  # fmt: skip
        assert tokens.refusal(await tokens.find(store, secret), now) == reason
    newest = await tokens.rotate(store, "pi", now=210.0, overlap=60.0)
    assert newest is not None
    assert await tokens.find(store, old) is None  # only one secret overlaps
    assert tokens.refusal(await tokens.find(store, new), 269.0) is None
    assert tokens.refusal(await tokens.find(store, newest[0]), 269.0) is None


async def test_an_old_secret_does_not_outlive_its_token(store: SqliteStore) -> None:
    old, _ = await tokens.create(store, name="pi", now=100.0, expires_in=10.0)
    assert await tokens.rotate(store, "pi", now=105.0, overlap=60.0)
    assert tokens.refusal(await tokens.find(store, old), 110.0) == "expired_token"


async def test_only_live_tokens_are_rotated(store: SqliteStore) -> None:
    await tokens.create(store, name="pi", now=100.0, expires_in=10.0)
    assert await tokens.rotate(store, "pi", now=110.0) is None
    await tokens.create(store, name="po", now=100.0)
    await store.token_revoke("po", 101.0)
    assert await tokens.rotate(store, "po", now=110.0) is None
    assert await tokens.rotate(store, "no", now=110.0) is None


async def test_a_token_may_be_for_many_devices(store: SqliteStore) -> None:
    scopes = Scopes(devices=("sensor-*",), ports=())
    secret, token = await tokens.create(store, name="fleet", now=1.0, scopes=scopes)
    assert (token.device_id, token.device) == (None, None)
    found = await tokens.find(store, secret)
    assert found is not None
    assert found.scopes == scopes
    with pytest.raises(UsageError):
        await tokens.create(store, name="x", device="pi", now=1.0, scopes=scopes)
    for grants in ({"scopes": scopes}, {"limits": Limits(tunnels=1)}):
        with pytest.raises(UsageError):
            await tokens.create(store, name="x", kind="admin", now=1.0, **grants)


@pytest.mark.parametrize(
    ("value", "credential"),
    [
        (b"Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        (b"Basic abc", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (None, None),
    ],
)
def test_bearer(value: bytes | str | None, credential: str | None) -> None:
    assert tokens.bearer(value) == credential
